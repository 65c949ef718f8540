// Curves with values at the pointer and by the arrow keys.

const SIZE = { width: 360, height: 220, left: 48, right: 8, top: 8, bottom: 30 };

function niceTicks(low, high, log) {
  if (log) {
    const powers = Array.from({ length: 25 }, (_, i) => 10 ** (i - 12));
    return powers.flatMap((p) => [p, 2 * p, 5 * p]).filter((v) => v >= low && v <= high);
  }
  const rough = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const count = Math.floor(high / step) - Math.ceil(low / step) + 1;
  return Array.from({ length: Math.max(count, 0) }, (_, i) => (Math.ceil(low / step) + i) * step);
}

/** Returns a function from values to pixels, and its ticks. */
function scale(values, from, to, log, robust) {
  const sorted = [...values].sort((a, b) => a - b);
  const skipped = robust && sorted.length > 50 ? Math.floor(sorted.length / 50) : 0;
  let [low, high] = [sorted[skipped], sorted[sorted.length - 1 - skipped]];
  const margin = (log ? 0 : (high - low) * 0.05) || (low === high ? Math.abs(low) * 0.05 || 1 : 0);
  [low, high] = [low - margin, high + margin];
  const map = log ? Math.log : (v) => v;
  const place = (v) => from + ((map(v) - map(low)) / (map(high) - map(low) || 1)) * (to - from);
  return { place, ticks: niceTicks(low, high, log) };
}

/**
 * Creates a chart.
 * lines: [{label, run, points: [[x, y, dx, dy]], seeds: [[x, y]]}].
 */
function chart({ title, text, xTitle, log = false, lines }) {
  const all = lines.flatMap(({ points, seeds = [] }) => [...points, ...seeds]);
  const logs = log && all.every(([x]) => x > 0);
  const { width, height, left, right, top, bottom } = SIZE;
  const x = scale(all.map((p) => p[0]), left, width - right, logs, false);
  const y = scale(all.flatMap((p) => [p[1] - (p[3] || 0), p[1] + (p[3] || 0)]), height - bottom, top, false, true);
  const inside = (v) => Math.min(Math.max(v, top), height - bottom);
  const cursor = make('line', { class: 'cursor', y1: top, y2: height - bottom, visibility: 'hidden' });
  const svg = make('svg', { viewBox: `0 0 ${width} ${height}`, 'aria-hidden': true }, [
    ...x.ticks.map((tick) => make('text', { x: x.place(tick), y: height - 14, 'text-anchor': 'middle' }, short(tick))),
    ...y.ticks.map((tick) => make('g', {}, [
      make('line', { x1: left, x2: width - right, y1: y.place(tick), y2: y.place(tick) }),
      make('text', { x: left - 4, y: y.place(tick) + 4, 'text-anchor': 'end' }, short(tick)),
    ])),
    make('text', { x: (left + width - right) / 2, y: height - 2, 'text-anchor': 'middle' }, xTitle),
    cursor,
    ...lines.map((line) => drawLine(line, x, y, inside)),
  ]);
  const last = lines.map(({ label, points }) => `${label} ${short(points[points.length - 1][1])}`).join(', ');
  const output = make('output', {}, `Last: ${last}`);
  const frame = make('div', {
    tabindex: 0, role: 'img', 'aria-label': `${title} over ${xTitle}. Last: ${last}. Arrow keys read the points.`,
  }, svg);
  addCursor(frame, output, cursor, lines, x, y);
  return make('div', { class: 'chart' }, make('h4', {}, title), text ? make('p', { class: 'faint' }, text) : null, frame, output);
}

function drawLine({ run, points, seeds = [] }, x, y, inside) {
  const at = (p) => [x.place(p[0]), inside(y.place(p[1]))];
  const path = points.map((p, i) => `${i ? 'L' : 'M'}${at(p).map((v) => v.toFixed(1)).join(' ')}`).join('');
  const bars = points.filter((p) => p[2] || p[3]).flatMap(([px, py, dx, dy]) => [
    make('line', { class: 'error', x1: x.place(px - dx) || x.place(px), x2: x.place(px + dx), y1: y.place(py), y2: y.place(py) }),
    make('line', { class: 'error', x1: x.place(px), x2: x.place(px), y1: y.place(py - dy), y2: y.place(py + dy) }),
  ]);
  const dots = points.length > 40 ? [] : points.map((p) => make('circle', { cx: at(p)[0], cy: at(p)[1], r: 2.5 }));
  const rings = seeds.map((p) => make('circle', { class: 'seed', cx: at(p)[0], cy: at(p)[1], r: 2.5 }));
  return make('g', { class: `run-${run % 6}` }, make('path', { d: path }), bars, dots, rings);
}

/** Reads the points at the pointer, and one by one by the arrow keys. */
function addCursor(frame, output, cursor, lines, x, y) {
  const points = lines.flatMap((line) => line.points.map((p) => ({ label: line.label, p }))).sort((a, b) => a.p[0] - b.p[0]);
  const places = [...new Set(points.map(({ p }) => p[0]))];
  let place = places.length - 1;
  const spread = (v, d) => (d ? `${short(v)} ± ${short(d)}` : short(v));
  function read(index) {
    place = Math.min(Math.max(index, 0), places.length - 1);
    const here = points.filter(({ p }) => p[0] === places[place]);
    const texts = here.map(({ label, p }) => `${label} ${spread(p[1], p[3])}`);
    output.textContent = `${spread(places[place], here[0].p[2])}: ${texts.join(', ')}`;
    for (const name of ['x1', 'x2']) cursor.setAttribute(name, x.place(places[place]));
    cursor.setAttribute('visibility', 'visible');
  }
  frame.addEventListener('pointermove', (event) => {
    const box = frame.firstChild.getBoundingClientRect();
    const at = [(event.clientX - box.left), (event.clientY - box.top)].map((v) => (v * SIZE.width) / box.width);
    const far = ({ p }) => Math.hypot(x.place(p[0]) - at[0], (y.place(p[1]) - at[1]) / 4);
    const nearest = points.reduce((best, each) => (far(each) < far(best) ? each : best));
    read(places.indexOf(nearest.p[0]));
  });
  frame.addEventListener('keydown', (event) => {
    const moves = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: places.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    output.setAttribute('aria-live', 'polite');
    read(moves[event.key]);
  });
}

function legend(labels) {
  return make('ul', { class: 'legend' }, labels.map((label, i) =>
    make('li', { class: `run-${i % 6}` }, make('span', {}, label))));
}
