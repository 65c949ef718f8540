// The other sections, and the reload while a run trains.

let playing = null;  // The sound of a gallery.
const MAIN = ['train/loss', 'train/distance', 'train/kl', 'train/critic_loss'];

function buildNumbers() {
  const table = (rows) => make('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Numbers' },
    make('table', {}, make('thead', {}, make('tr', {}, make('th', { scope: 'col' }, 'Metric'),
      page.runs.map(({ label }) => make('th', { scope: 'col', class: 'number' }, label)), make('th', { scope: 'col' }, 'Meaning'))),
    make('tbody', {}, rows.map(({ title, cells, best, text, sign }) => make('tr', {}, make('th', { scope: 'row' }, title),
      cells.map((cell, i) => make('td', { class: best[i] ? 'number best' : 'number' }, cell)),
      make('td', { class: 'text' }, [text, ['Lower is better.', '', 'Higher is better.'][sign + 1]].join(' ')))))));
  const sampled = page.numbers.filter((row) => row.sampled);
  document.getElementById('numbers').append(table(page.numbers.filter((row) => !row.sampled)),
    ...(sampled.length ? [details('sampled', 'From a sample of the latent, in place of its mean', () => table(sampled))] : []));
}

function buildCurves() {
  const names = [...new Set(page.runs.flatMap(({ curves }) => Object.keys(curves)))];
  const draw = (some) => make('div', { class: 'charts' }, some.map((name) => chart({
    title: page.titles[name] ?? name, xTitle: 'step',
    lines: page.runs.map(({ label, curves }, run) => ({ label, run, points: curves[name] ?? [] })).filter(({ points }) => points.length),
  })));
  const held = names.filter((name) => name.startsWith('eval/') && !/_sampled$|_band_/.test(name));
  const main = MAIN.filter((name) => names.includes(name));
  const rest = names.filter((name) => !held.includes(name) && !main.includes(name)).sort();
  if (!names.length) return;
  const labels = page.runs.map(({ label }) => label);
  document.getElementById('curves').append(legend(labels),
    ...(main.length ? [make('h3', {}, 'Losses'), draw(main)] : []),
    ...(held.length ? [make('h3', {}, 'On held-out examples'), draw(held)] : []),
    ...(rest.length ? [details('all-curves', `${rest.length} more curves`, () => draw(rest))] : []));
}

function buildRates() {
  if (!page.charts.length) return;
  const labels = [...new Set(page.charts.flatMap(({ lines }) => lines.map(({ label }) => label)))];
  document.getElementById('rates').append(
    make('p', { class: 'faint' }, 'Points are means over seeds with their deviation; rings are single runs.'), legend(labels),
    make('div', { class: 'charts' }, page.charts.map(({ title, text, lines }) => chart({
      title, text, xTitle: 'KL (nats)', log: true, lines: lines.map((line) => ({ ...line, run: labels.indexOf(line.label) })),
    }))));
}

function buildLatents() {
  const root = document.getElementById('latents');
  const show = (item, text) => {
    if (!item.sound) return make('span', { role: 'img', 'aria-label': text }, thumbnail(item, true));
    const play = () => { if (playing) playing.pause(); playing = new Audio(item.sound); playing.play(); };
    return make('button', { type: 'button', 'aria-label': `Play: ${text}`, onclick: play }, thumbnail(item, true));
  };
  const coded = page.runs.map(({ label, codes }, run) => ({ label, run, points: codes.map((share, i) => [i, share]) }))
    .filter(({ points }) => points.length);
  if (coded.length) {
    root.append(legend(page.runs.map(({ label }) => label)), make('div', { class: 'charts' },
      chart({ title: 'Share of each code', text: 'Sorted; with equal use all have the same share.', xTitle: 'code', lines: coded })));
  }
  for (const { label, galleries } of page.runs) {
    if (!galleries.length) continue;
    if (page.runs.length > 1) root.append(make('h3', {}, label));
    root.append(...galleries.map(({ title, items, note }) => make('div', {},
      make('p', {}, [title, media.kind === 'volume' ? 'the middle slices' : '', note].filter(Boolean).join('; ')),
      make('div', { class: 'gallery' }, items.map((item, i) => show(item, `${label}, ${title}, ${i + 1} of ${items.length}`))))));
  }
}

function buildConfiguration() {
  const labels = page.runs.map(({ label }) => label);
  const table = (rows) => make('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Configuration' },
    make('table', {}, make('thead', {}, make('tr', {}, ['Field', ...labels, 'Default', 'Meaning'].map((text) => make('th', { scope: 'col' }, text)))),
      make('tbody', {}, rows.map((row) => make('tr', {}, make('th', { scope: 'row' }, row.name),
        row.cells.map((cell) => make('td', { class: row.differs ? 'differs' : '' }, cell)),
        make('td', {}, row.default), make('td', { class: 'text' }, row.help))))));
  const own = page.configuration.filter((row) => row.own);
  const rest = page.configuration.filter((row) => !row.own);
  // What differs between the runs comes first.
  own.sort((a, b) => Number(b.differs) - Number(a.differs));
  document.getElementById('configuration').append(
    own.length ? table(own) : make('p', {}, 'Every field has its default.'),
    details('defaults', `${rest.length} fields that have their default`, () => table(rest)));
}

/** Reloads while the run trains; not while somebody listens, or for ever. */
function watchTraining() {
  const status = document.getElementById('state');
  const { training } = page;
  status.append(page.subtitle);
  if (!training) return;
  const age = () => (Date.now() / 1000 - page.written);
  const box = check('reload', state.reload, (on) => { state.reload = on; });
  status.append(make('br'), `In training: step ${training.step.toLocaleString('en')} of ${training.total.toLocaleString('en')}. `,
    labelled('Reload this page as it goes on', box));
  if (age() > 20 * training.reload + 600) {
    status.append(make('br'), 'Nothing has been written for long: training has probably stopped.');
    return;
  }
  // Counted from the load: a page that takes longer to load would never show.
  const start = () => setInterval(() => {
    const listens = document.getElementById('play')?.textContent === 'Pause' || (playing && !playing.paused);
    const busy = listens || document.querySelector('.flicked');
    if (!state.reload || busy || document.hidden) return;
    save();
    location.reload();
  }, training.reload * 1000);
  addEventListener('load', start);
}

watchTraining();
const painted = buildExamples();
buildNumbers();
buildRates();
buildCurves();
buildLatents();
buildConfiguration();
document.getElementById('protocol').append(make('ul', {}, page.protocol.map((line) => make('li', {}, line))));
history.scrollRestoration = 'manual';
window.addEventListener('pagehide', save);
// The page grows when its pictures are there.
Promise.resolve(painted).then(() => window.scrollTo(0, state.scroll));
if (state.focus) document.getElementById(state.focus)?.focus({ preventScroll: true });
