// The dialog that crops a reference: a frame over the whole picture, moved by mouse, touch and keys. What was chosen
// goes to Python as shares of the picture's sides, with the hash of the picture it was chosen on.
const STEP = { small: 0.01, large: 0.1 }; // share of a side per arrow key and per page key
const WHOLE = [0, 0, 1, 1];
let box = WHOLE; // left, top, right, bottom
let held = null; // what a pointer drags: {pointer, x, y, from, edges}; edges 0 to 3, none = the frame as a whole

const dialog = () => element.querySelector('dialog');
const within = (value, least, most) => Math.min(Math.max(value, least), most);
const sides = () => [Number(dialog().dataset.width), Number(dialog().dataset.height)];

function draw() {
  const [width, height] = sides();
  const frame = dialog().querySelector('.frame-of-crop');
  frame.style.inset = `${box[1] * 100}% ${(1 - box[2]) * 100}% ${(1 - box[3]) * 100}% ${box[0] * 100}%`;
  frame.querySelectorAll('.edge').forEach((edge, index) => {
    const percent = Math.round(box[index] * 100);
    edge.setAttribute('aria-valuenow', percent);
    edge.setAttribute('aria-valuetext', `${percent} %`);
  });
  const size = [[2, 0, width], [3, 1, height]].map(([end, start, side]) => Math.round(box[end] * side) - Math.round(box[start] * side));
  dialog().querySelector('.size').textContent = `${size[0]} × ${size[1]} px`;
  dialog().querySelector('.whole').disabled = box.every((share, index) => share === WHOLE[index]);
}

// An edge stops before the one across from it; so much is left that the models' sides still accept it.
function place(edge, share, from) {
  const across = from[(edge + 2) % 4];
  const least = Math.min(1, (Number(dialog().dataset.least) + 1) / sides()[edge % 2]);
  return edge < 2 ? within(share, 0, Math.max(0, across - least)) : within(share, Math.min(1, across + least), 1);
}

function moved(edges, across, down, from) {
  const ahead = [across, down];
  const next = [...from];
  if (edges.length) for (const edge of edges) next[edge] = place(edge, from[edge] + ahead[edge % 2], from);
  else
    for (const side of [0, 1]) {
      const by = within(ahead[side], -from[side], 1 - from[side + 2]);
      next[side] += by;
      next[side + 2] += by;
    }
  box = next.map((share) => Math.round(share * 1e6) / 1e6);
  draw();
}

element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.matches('.crop')) {
    box = JSON.parse(dialog().dataset.box);
    draw();
    dialog().showModal();
  } else if (button.matches('.whole')) {
    box = [...WHOLE];
    draw();
    dialog().querySelector('.use').focus();
  } else {
    dialog().close();
    const same = JSON.stringify(box) === JSON.stringify(JSON.parse(dialog().dataset.box));
    if (button.matches('.use') && !same) trigger('pick', { box, whole: dialog().dataset.whole });
    element.querySelector('.crop').focus();
  }
});

element.addEventListener('pointerdown', (event) => {
  const frame = event.target.closest('.frame-of-crop');
  if (!frame || held || event.button !== 0) return;
  const { corner } = event.target.dataset;
  const edge = [...frame.querySelectorAll('.edge')].indexOf(event.target);
  const edges = corner ? [...corner].map(Number) : edge < 0 ? [] : [edge];
  event.target.setPointerCapture(event.pointerId);
  if (edge >= 0) event.target.focus();
  event.preventDefault();
  held = { pointer: event.pointerId, x: event.clientX, y: event.clientY, from: box, edges };
});
element.addEventListener('pointermove', (event) => {
  if (event.pointerId !== held?.pointer) return;
  const { width, height } = dialog().querySelector('.sheet').getBoundingClientRect();
  moved(held.edges, (event.clientX - held.x) / width, (event.clientY - held.y) / height, held.from);
});
const release = (event) => { if (event.pointerId === held?.pointer) held = null; };
element.addEventListener('pointerup', release);
element.addEventListener('pointercancel', release);

const KEYS = {
  ArrowRight: STEP.small, ArrowDown: STEP.small, PageDown: STEP.large, End: 1,
  ArrowLeft: -STEP.small, ArrowUp: -STEP.small, PageUp: -STEP.large, Home: -1,
};
element.addEventListener('keydown', (event) => {
  if (!event.target.matches('dialog .edge') || !(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  event.stopPropagation();
  const edge = [...dialog().querySelectorAll('.edge')].indexOf(event.target);
  moved([edge], KEYS[event.key], KEYS[event.key], box);
});
