// Decodes embedded pictures, and paints photographs, bands and slices.

/** Resolves to an image, or to grey values [channels, depth, height, width]. */
async function decode(item) {
  const image = new Image();
  image.src = item.picture;
  await image.decode();
  return media.sheet ? readTiles(image) : image;
}

function readTiles(image) {
  const { width, height } = media;
  const canvas = make('canvas', { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const columns = canvas.width / width;
  const number = columns * (canvas.height / height);
  const values = new Uint8Array(number * width * height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  for (let tile = 0, to = 0; tile < number; tile++) {
    const top = Math.floor(tile / columns) * height;
    const left = (tile % columns) * width;
    for (let y = 0; y < height; y++) {
      let from = 4 * ((top + y) * canvas.width + left);
      for (let x = 0; x < width; x++, from += 4) values[to++] = pixels[from];
    }
  }
  return values;
}

/** Returns the sides [D, H, W] of an example. */
const sides = () => [media.depth, media.height, media.width];

/** Returns the width and the height of what is shown. */
function shownSize() {
  const [depth, height, width] = sides();
  return [[width, height], [width, depth], [height, depth]][state.axis];
}

/** Paints a decoded picture: of volumes a slice, of arrays the chosen bands. */
function paint(canvas, picture, { depth, axis, slice, bands }) {
  const context = canvas.getContext('2d', { willReadFrequently: true });
  if (!media.sheet) {
    [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
    context.drawImage(picture, 0, 0);
    return;
  }
  const area = media.height * media.width;
  const steps = [area, media.width, 1];
  const [rows, columns] = [[1, 2], [0, 2], [0, 1]][axis];
  const size = [depth, media.height, media.width];
  [canvas.width, canvas.height] = [size[columns], size[rows]];
  const image = context.createImageData(canvas.width, canvas.height);
  const offsets = bands.map((band) => band * depth * area + slice * steps[axis]);
  let to = 0;
  for (let y = 0; y < canvas.height; y++) {
    for (let x = 0; x < canvas.width; x++) {
      const from = y * steps[rows] + x * steps[columns];
      for (const offset of offsets) image.data[to++] = picture[offset + from];
      image.data[to++] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}

/** Returns what to paint now; `flat` is a picture of one slice. */
function currentView(flat = false) {
  const axis = flat ? 0 : state.axis;
  return { depth: flat ? 1 : media.depth, axis, slice: flat ? 0 : state.slices[axis], bands: state.bands };
}

/** Creates a small picture of an item, in an element that is shown at once. */
function thumbnail(item, flat) {
  if (!media.sheet) return make('img', { src: item.picture, alt: '' });
  const canvas = make('canvas', { 'aria-hidden': true, width: media.width, height: media.height });
  decode(item).then((picture) => paint(canvas, picture, currentView(flat)));
  return canvas;
}
