// One player for the original and all runs: switching keeps the place.

function createPlayer(panes) {
  let tracks = [];
  const play = button('play', 'Play', () => (heard().paused ? start() : stop()));
  const seconds = make('output', { for: 'seek' });
  const seek = range('seek', 0, 1, 0.001, state.time, (value) => go(value));
  const names = ['Original', ...page.runs.map(({ label }) => label)];
  const radios = names.map((_, i) => make('input', { type: 'radio', name: 'track', id: `track-${i}`, onchange: () => hear(i) }));
  const heard = () => tracks[state.track];

  function start() { heard().play(); play.textContent = 'Pause'; requestAnimationFrame(follow); }
  function stop() { tracks.forEach((track) => track.pause()); play.textContent = 'Play'; }
  function go(share) { heard().currentTime = share * media.seconds; mark(share); }
  function mark(share) {
    state.time = Math.min(share, 1);
    panes.style.setProperty('--time', state.time);
    seek.value = state.time;
    seconds.textContent = `${(state.time * media.seconds).toFixed(2)} of ${media.seconds.toFixed(2)} s`;
  }
  function follow() {
    if (heard().paused && !heard().ended) return;
    mark(heard().currentTime / media.seconds);
    if (!heard().ended) { requestAnimationFrame(follow); return; }
    if (state.loop) { go(0); start(); } else stop();
  }
  function hear(index) {
    const playing = heard() && !heard().paused;
    const place = heard() ? heard().currentTime : state.time * media.seconds;
    tracks.forEach((track) => track.pause());
    state.track = index;
    radios[index].checked = true;
    heard().currentTime = place;
    if (playing) heard().play();
  }
  radios[Math.min(state.track, radios.length - 1)].checked = true;
  state.track = Math.min(state.track, radios.length - 1);
  return {
    controls: make('div', { class: 'bar' }, play, labelled('Position', seek), seconds,
      make('fieldset', {}, make('legend', {}, 'Heard'), radios.map((radio, i) => labelled(names[i], radio))),
      labelled('Loop', check('loop', state.loop, (value) => { state.loop = value; }))),
    load(example) {
      stop();
      tracks = [example.original, ...example.recons].map(({ sound }) => new Audio(sound));
      go(state.time);
    },
    seek(share, track) { hear(track); go(Math.max(share, 0)); },
  };
}
