// The examples: an order, a strip to choose from, and synchronised panes.

const examples = page.examples;

function ordered() {
  const [name, kind] = state.order.split(':');
  if (!kind) return [...examples].sort((a, b) => a.index - b.index);
  const place = ({ ranks }) => {
    if (!ranks[name]) return Infinity;
    const [rank, count] = ranks[name];
    return { worst: rank, best: -rank, median: Math.abs(rank - (count + 1) / 2) }[kind];
  };
  return [...examples].sort((a, b) => place(a) - place(b));
}

/** Returns the numbers of an example as text; `run` undefined: its ranks. */
function describe(example, run) {
  const values = run === undefined ? {} : example.values[run];
  return page.orders
    .map(({ name, title }) => {
      if (run !== undefined) return name in values ? `${title} ${short(values[name])}` : null;
      const rank = example.ranks[name];
      return rank && state.order.startsWith(`${name}:`)
        ? `${title}: rank ${rank[0]} of ${rank[1]}, 1 is the worst` : null;
    })
    .filter(Boolean)
    .join(', ');
}

function buildExamples() {
  if (!examples.length) return null;
  const root = document.getElementById('examples');
  state.bands ??= media.bands.length === 3 ? media.bands : Array(3).fill(media.bands[0]);
  state.slices ??= sides().map((side) => Math.floor(side / 2));
  state.runs ??= page.runs.map((_, i) => i).slice(0, 4);
  if (!examples.some(({ index }) => index === state.example)) state.example = ordered()[0].index;
  if (page.note) root.append(make('p', { class: 'faint' }, page.note));
  const strip = make('ul', { class: 'strip', 'aria-label': 'Examples' });
  const title = make('h3', { 'aria-live': 'polite' });
  const panes = make('div', {
    class: 'panes', id: 'panes', tabindex: 0, role: 'group',
    'aria-label': 'Pictures. Arrow keys pan, plus and minus zoom, 0 fits, hold the space bar to see '
      + 'the original in place of each reconstruction, n and p change the example.',
  });
  const readout = make('output', { class: 'faint' }, ' ');
  const flick = make('button', { id: 'flick', type: 'button', 'aria-pressed': false }, 'Hold to see the original');
  const player = media.kind === 'sound' ? createPlayer(panes) : null;
  const columns = createPanes(panes, player);

  function fillStrip() {
    strip.replaceChildren(...ordered().map((example) => {
      const choose = make('button', {
        id: `example-${example.index}`, type: 'button', onclick: () => show(example.index),
        'aria-label': [`Example ${example.index}`, describe(example)].filter(Boolean).join(', '),
      }, thumbnail(example.original));
      return make('li', {}, choose);
    }));
  }

  function move(by) {
    const list = ordered();
    const place = list.findIndex(({ index }) => index === state.example);
    show(list[(place + by + list.length) % list.length].index);
  }

  async function show(index) {
    state.example = index;
    const example = examples.find((each) => each.index === index);
    for (const each of strip.querySelectorAll('button')) {
      each.toggleAttribute('aria-current', each.id === `example-${index}`);
      if (each.hasAttribute('aria-current')) {
        each.setAttribute('aria-current', 'true');
        strip.scrollLeft = each.offsetLeft - strip.offsetLeft - strip.clientWidth / 2;
      }
    }
    title.textContent = [`Example ${index}`, describe(example)].filter(Boolean).join('. ');
    if (player) player.load(example);
    panes.pictures = await Promise.all([example.original, ...example.recons].map(decode));
    if (state.example === index) repaint();
  }

  function repaint() {
    const example = examples.find((each) => each.index === state.example);
    const [width, height] = shownSize();
    panes.style.setProperty('--w', width);
    panes.style.setProperty('--h', height);
    for (const column of columns) column.paint(panes.pictures, example);
    apply();
  }

  /** Shows the zoom, the split and the rest of the state. */
  function apply() {
    const least = 0.5 / state.zoom;
    state.x = Math.min(Math.max(state.x, least), 1 - least);
    state.y = Math.min(Math.max(state.y, least), 1 - least);
    for (const name of ['zoom', 'x', 'y', 'gain', 'time']) panes.style.setProperty(`--${name}`, state[name]);
    panes.style.setProperty('--split', `${state.split}%`);
    panes.style.setProperty('--columns', state.runs.length + 1);
    panes.classList.toggle('zoomed', state.zoom > 1);
    for (const column of columns) column.arrange();
  }

  function setFlick(on) {
    panes.classList.toggle('flicked', on);
    flick.setAttribute('aria-pressed', on);
  }

  function zoom(factor, x = state.x, y = state.y) {
    const most = Math.max(...shownSize()) / 4;
    const next = Math.min(Math.max(state.zoom * factor, 1), Math.max(most, 1));
    // The point under the pointer stays where it is.
    state.x = x + (state.x - x) * state.zoom / next;
    state.y = y + (state.y - y) * state.zoom / next;
    state.zoom = next;
    apply();
  }

  addGestures({ panes, readout, columns, zoom, apply, setFlick, move, player, flick });
  const orders = [['first', 'as in the data'], ...page.orders.flatMap(({ name, title: text }) =>
    ['worst', 'median', 'best'].map((kind) => [`${name}:${kind}`, `${text}: ${kind} first`]))];
  if (!orders.some(([key]) => key === state.order)) state.order = 'first';
  const changeOrder = (value) => { state.order = value; fillStrip(); show(ordered()[0].index); };
  root.append(
    make('div', { class: 'bar' },
      labelled('Order', select('order', orders, state.order, changeOrder)),
      button('previous', 'Previous', () => move(-1)), button('next', 'Next', () => move(1))),
    strip, title,
    make('div', { class: 'bar' },
      labelled('Original from the left', range('split', 0, 100, 1, state.split, (value) => { state.split = value; apply(); })),
      flick,
      button('zoom-in', 'Zoom in', () => zoom(2)), button('zoom-out', 'Zoom out', () => zoom(0.5)),
      button('fit', 'Fit', () => zoom(0)),
      labelled('Differences', check('differences', state.differences, (value) => { state.differences = value; apply(); })),
      labelled('brighter by', select('gain', [1, 2, 4, 8, 16].map((n) => [n, n]), state.gain, (value) => { state.gain = Number(value); apply(); }))),
    ...dataControls(repaint), runControls(apply) ?? '', player ? player.controls : '', panes, readout);
  fillStrip();
  return show(state.example);
}

/** Returns the controls of slices and bands, where there are several. */
function dataControls(repaint) {
  const bars = [];
  if (media.depth > 1) {
    const names = ['depth', 'height', 'width'];
    const slice = range('slice', 0, sides()[state.axis] - 1, 1, state.slices[state.axis], (value) => {
      state.slices[state.axis] = value;
      place.textContent = `${value + 1} of ${sides()[state.axis]}`;
      repaint();
    });
    const place = make('output', { for: 'slice' }, `${state.slices[state.axis] + 1} of ${sides()[state.axis]}`);
    const axis = select('axis', names.map((name, i) => [i, name]), state.axis, (value) => {
      state.axis = Number(value);
      slice.max = sides()[state.axis] - 1;
      slice.value = state.slices[state.axis];
      slice.dispatchEvent(new Event('input'));
    });
    bars.push(make('div', { class: 'bar' }, labelled('Cut across', axis), labelled('Slice', slice), place));
  }
  if (media.channels > 1) {
    const options = Array.from({ length: media.channels }, (_, i) => [i, `channel ${i}`]);
    bars.push(make('div', { class: 'bar' }, ['Red', 'Green', 'Blue'].map((name, i) =>
      labelled(name, select(`band-${i}`, options, state.bands[i], (value) => {
        state.bands[i] = Number(value);
        repaint();
      })))));
  }
  return bars;
}

function runControls(apply) {
  if (page.runs.length < 2) return null;
  return make('fieldset', { class: 'bar' }, make('legend', {}, 'Runs'), page.runs.map(({ label }, i) =>
    labelled(label, check(`run-${i}`, state.runs.includes(i), (on) => {
      state.runs = on ? [...state.runs, i] : state.runs.filter((run) => run !== i);
      apply();
    }))));
}

/** Creates a column for the original, and one for each run. */
function createPanes(panes, player) {
  const columns = [null, ...page.runs.keys()].map((run, track) => {
    const element = make('div', { class: 'column' });
    const view = (className, count) => {
      const canvases = Array.from({ length: count }, () => make('canvas', { 'aria-hidden': true }));
      const layers = canvases.map((canvas, i) => make('div', { class: i ? className : 'layer' }, canvas));
      const frame = make('div', { class: `view ${className === 'layer over' ? '' : className}`, role: 'img' }, layers);
      frame.track = track;
      const figure = make('figure', {}, frame, make('figcaption'));
      element.append(figure);
      return { canvases, frame, figure, caption: figure.lastChild };
    };
    const recon = view('layer over', run === null ? 1 : 2);
    if (run !== null) recon.frame.append(make('div', { class: 'edge' }));
    const difference = run === null ? null : view('difference', 2);
    if (difference) for (const { parentElement } of difference.canvases) parentElement.className = 'layer';
    if (player) recon.frame.append(make('div', { class: 'playhead' }));
    panes.append(element);
    const label = run === null ? 'Original' : page.runs[run].label;
    return {
      run, recon,
      paint(pictures, example) {
        const text = run === null ? '' : describe(example, run);
        const own = [pictures[run === null ? 0 : run + 1], pictures[0]];
        for (const each of [recon, difference].filter(Boolean)) {
          each.canvases.forEach((canvas, i) => paint(canvas, own[i], currentView()));
        }
        recon.caption.replaceChildren(make('b', {}, label), text && `: ${text}`);
        recon.frame.setAttribute('aria-label', [`${label}, example ${example.index}`, text].filter(Boolean).join(': '));
        if (!difference) return;
        difference.caption.replaceChildren(`Difference, ${label}`);
        difference.frame.setAttribute('aria-label', `Difference of ${label} from the original, example ${example.index}`);
      },
      arrange() {
        element.hidden = run !== null && !state.runs.includes(run);
        if (difference) difference.figure.hidden = !state.differences;
        if (run !== null) recon.frame.querySelector('.edge').hidden = !(state.split > 0 && state.split < 100);
      },
    };
  });
  return columns;
}

/** Adds what the pointer and the keys do on the panes. */
function addGestures({ panes, readout, columns, zoom, apply, setFlick, move, player, flick }) {
  let held = null;
  const locate = (event) => {
    const frame = event.target.closest('.view');
    if (!frame) return null;
    const box = frame.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    return { frame, box, x: state.x + (x - 0.5) / state.zoom, y: state.y + (y - 0.5) / state.zoom };
  };
  panes.addEventListener('pointerdown', (event) => {
    const place = locate(event);
    if (!place || event.button) return;
    if (player) { player.seek(place.x, place.frame.track); return; }
    held = { ...place, left: event.clientX, top: event.clientY, from: [state.x, state.y] };
    setFlick(true);
  });
  window.addEventListener('pointermove', (event) => {
    if (!held || state.zoom === 1) return;
    const [dx, dy] = [event.clientX - held.left, event.clientY - held.top];
    if (Math.hypot(dx, dy) < 4 && !held.moved) return;
    held.moved = true;
    setFlick(false);
    state.x = held.from[0] - dx / held.box.width / state.zoom;
    state.y = held.from[1] - dy / held.box.height / state.zoom;
    apply();
  });
  for (const name of ['pointerup', 'pointercancel', 'blur']) {
    window.addEventListener(name, () => { held = null; setFlick(false); });
  }
  panes.addEventListener('pointermove', (event) => {
    const place = locate(event);
    readout.textContent = place ? readValues(place, columns) : ' ';
  });
  panes.addEventListener('dblclick', (event) => {
    const place = locate(event);
    if (place) zoom(event.shiftKey ? 0.5 : 2, place.x, place.y);
  });
  panes.addEventListener('wheel', (event) => {
    const place = locate(event);
    if (!place || !event.ctrlKey) return;  // The wheel alone scrolls the page.
    event.preventDefault();
    zoom(2 ** (-event.deltaY / 100), place.x, place.y);
  }, { passive: false });
  const step = 0.1;
  const keys = {
    ArrowLeft: () => { state.x -= step / state.zoom; apply(); }, ArrowRight: () => { state.x += step / state.zoom; apply(); },
    ArrowUp: () => { state.y -= step / state.zoom; apply(); }, ArrowDown: () => { state.y += step / state.zoom; apply(); },
    '+': () => zoom(2), '=': () => zoom(2), '-': () => zoom(0.5), 0: () => zoom(0),
    ' ': () => setFlick(true), n: () => move(1), p: () => move(-1),
  };
  panes.addEventListener('keydown', (event) => {
    const modified = event.ctrlKey || event.altKey || event.metaKey;
    const pans = event.key.startsWith('Arrow');
    if (modified || !(event.key in keys) || (pans && state.zoom === 1)) return;
    event.preventDefault();
    keys[event.key]();
  });
  flick.addEventListener('pointerdown', () => setFlick(true));
  flick.addEventListener('keydown', (event) => { if ([' ', 'Enter'].includes(event.key)) setFlick(true); });
  for (const element of [panes, flick]) {
    element.addEventListener('keyup', () => setFlick(false));
    element.addEventListener('blur', () => setFlick(false));
  }
}

/** Returns the values of a pixel in each run, or the place in a sound. */
function readValues({ x, y }, columns) {
  if (media.kind === 'sound') {
    return `${short(x * media.seconds)} s, ${short((1 - y) * media.kilohertz)} kHz`;
  }
  const [width, height] = shownSize();
  const [column, row] = [Math.floor(x * width), Math.floor(y * height)];
  const values = columns.map(({ run, recon }) => {
    const context = recon.canvases[0].getContext('2d', { willReadFrequently: true });
    const pixel = [...context.getImageData(column, row, 1, 1).data].slice(0, 3);
    return `${run === null ? 'original' : page.runs[run].label} ${pixel.join(' ')}`;
  });
  return `x ${column}, y ${row} (8 bits): ${values.join('; ')}`;
}
