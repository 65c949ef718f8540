// Helpers, and the state that survives a reload.

const page = JSON.parse(document.getElementById('data').textContent);
const media = page.media;

/** Creates an element; text is never read as HTML. */
function make(tag, attributes = {}, ...children) {
  const space = ['svg', 'path', 'line', 'circle', 'text', 'g', 'clipPath', 'rect'];
  const element = space.includes(tag)
    ? document.createElementNS('http://www.w3.org/2000/svg', tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Creates a control with its label: a select, a range or a checkbox. */
function labelled(text, control) {
  const parts = [make('span', {}, text), control];
  return make('label', {}, ['checkbox', 'radio'].includes(control.type) ? parts.reverse() : parts);
}

function select(id, options, value, onchange) {
  const element = make('select', { id }, options.map(([key, text]) => make('option', { value: key }, text)));
  element.value = value;
  element.addEventListener('change', () => onchange(element.value));
  return element;
}

function range(id, min, max, step, value, oninput) {
  const element = make('input', { id, type: 'range', min, max, step, value });
  element.addEventListener('input', () => oninput(Number(element.value)));
  return element;
}

function check(id, checked, onchange) {
  const element = make('input', { id, type: 'checkbox', checked });
  element.addEventListener('change', () => onchange(element.checked));
  return element;
}

function button(id, text, onclick) {
  return make('button', { id, type: 'button', onclick }, text);
}

/** Formats a number with four digits. */
function short(value) {
  if (value === null || value === undefined) return '—';
  return Math.abs(value) >= 1e4 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(4)));
}

const state = {
  example: null, order: 'first', zoom: 1, x: 0.5, y: 0.5, split: 0, differences: media && media.kind !== 'sound',
  gain: 4, bands: null, axis: 0, slices: null, runs: null, track: 0, time: 0, loop: false,
  reload: true, open: [], scroll: 0, focus: '',
};
// The state is of these runs: a folder may get others, of other sizes.
const owner = JSON.stringify([page.title, media, page.runs.map(({ label }) => label)]);
if (history.state && history.state.owner === owner) Object.assign(state, history.state);

/** Keeps the state, the place on the page and the focus for a reload. */
function save() {
  state.owner = owner;
  state.scroll = window.scrollY;
  state.focus = document.activeElement ? document.activeElement.id : '';
  state.open = [...document.querySelectorAll('details[open]')].map((element) => element.id);
  history.replaceState(state, '');
}

/** Creates a part that is closed at first, and filled when it is opened. */
function details(id, summary, fill) {
  const element = make('details', { id }, make('summary', {}, summary));
  element.addEventListener('toggle', () => {
    if (element.open && element.childElementCount === 1) element.append(fill());
  });
  if (state.open.includes(id)) {
    element.append(fill());
    element.open = true;
  }
  return element;
}
