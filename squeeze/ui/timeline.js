// Draws props.value and props.run into the template, and turns what a visitor's hand does into a new props.value.
// Gradio hands in element, props, trigger and watch. The names of our own props must not stand in quotes here: gradio
// takes quoted names for events, and an update of such a prop would fail.
const BORDER = { small: 1, large: 5 }; // steps per arrow key and per page key
const LEVEL = { small: 0.05, large: 0.25 }; // balance, likewise
const NOTCHES = 20; // a level snaps to twentieths; dividing by 20 gives exactly the number that 0.35 is in Python
const root = element.querySelector('.timeline');
const track = root.querySelector('.track');
const stages = [...root.querySelectorAll('.stage')];
const borders = [...root.querySelectorAll('.edge')];
const levels = [...root.querySelectorAll('.level')];
const numbers = [...root.querySelectorAll('.sum b')];
const again = root.querySelector('.again');
const done = root.querySelector('.done');

const sum = (counts) => counts.reduce((total, count) => total + count, 0);
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const copy = (value) => JSON.parse(JSON.stringify(value));
const within = (value, most) => Math.min(Math.max(value, 0), most);
const counted = (stage, count) => `${stages[stage].dataset.name}: ${count} ${count === 1 ? 'step' : 'steps'}`;
const WHOLE = { 0: 'semantics only', 0.5: 'both in full', 1: 'identity only' };
const leaning = (b) => WHOLE[b] ?? (b < 0.5 ? 'more semantics' : 'more identity');

let now = copy(props.value); // what is shown; ahead of props.value while a handle is held
let held = null; // the drag that goes on: {handle, x, y, from, moved}

function describe(handle, value, most, text) {
  handle.setAttribute('aria-valuenow', value);
  handle.setAttribute('aria-valuemax', most);
  handle.setAttribute('aria-valuetext', text);
  handle.setAttribute('aria-disabled', props.busy);
}

function draw() {
  const counts = props.busy ? props.run.counts : now.counts;
  const filled = same(counts, props.run.counts) ? props.run.done : 0;
  const total = sum(counts);
  let first = 0;
  counts.forEach((count, stage) => {
    const b = now.balance[stage];
    const cells = stages[stage].querySelector('.steps');
    while (cells.childElementCount < count) cells.append(document.createElement('i'));
    while (cells.childElementCount > count) cells.lastChild.remove();
    [...cells.children].forEach((cell, index) => cell.classList.toggle('on', first + index < filled));
    first += count;
    stages[stage].style.cssText = `--b: ${b}; --count: ${count}`;
    stages[stage].classList.toggle('empty', count === 0);
    levels[stage].firstChild.textContent = b.toFixed(2);
    describe(levels[stage], b, 1, `Stage ${stage + 1} balance ${b.toFixed(2)}, ${leaning(b)}`);
    numbers[stage].textContent = count;
    const border = borders[stage];
    if (border) describe(border, first, total, `${counted(stage, count)}, ${counted(stage + 1, counts[stage + 1])}`);
  });
  numbers[3].textContent = total;
  root.querySelector('.unit').textContent = total === 1 ? 'step' : 'steps';
  const at = (now.earlier ?? []).map(([step]) => step);
  root.querySelector('.branch').textContent = at.length ? `· branched at ${at.join(', ')}` : '';
  root.classList.toggle('touched', now.touched);
  root.dataset.busy = props.busy;
  root.classList.toggle('held', held !== null);
  again.disabled = props.busy || !now.touched;
  done.setAttribute('aria-valuemax', total);
  done.setAttribute('aria-valuenow', filled);
}

function change(changes) {
  const next = { ...now, earlier: [], ...changes };
  if (same(next, now)) return;
  now = next;
  if (held) held.moved = true;
  draw();
  send();
}

function send() {
  props.value = copy(now);
  trigger('input');
}

// A border pushes the other one before it; `from` are the counts that its way began with.
function moveBorder(index, cut, from) {
  const total = sum(from);
  const cuts = [from[0], from[0] + from[1]];
  cuts[index] = within(Math.round(cut), total);
  cuts[1 - index] = index ? Math.min(...cuts) : Math.max(...cuts);
  const counts = [cuts[0], cuts[1] - cuts[0], total - cuts[1]];
  if (!same(counts, now.counts)) change({ counts, touched: true });
}

function moveLevel(stage, b) {
  const balance = [...now.balance];
  balance[stage] = Math.round(within(b, 1) * NOTCHES) / NOTCHES;
  change({ balance });
}

function move(handle, from, ahead) {
  const border = borders.indexOf(handle);
  if (border < 0) moveLevel(levels.indexOf(handle), from.balance[levels.indexOf(handle)] + ahead);
  else moveBorder(border, sum(from.counts.slice(0, border + 1)) + ahead, from.counts);
}

root.addEventListener('pointerdown', (event) => {
  const handle = event.target.closest('[role=slider]');
  if (!handle || held || props.busy || event.button !== 0) return;
  // a level's line is for the mouse; a finger on it scrolls the page and takes the chip to move the level
  if (event.pointerType !== 'mouse' && levels.includes(handle) && !event.target.closest('.chip')) return;
  handle.setPointerCapture(event.pointerId);
  handle.focus({ preventScroll: true });
  held = { handle, pointer: event.pointerId, x: event.clientX, y: event.clientY, from: copy(now), moved: false };
  draw();
});

root.addEventListener('pointermove', (event) => {
  if (!held || event.pointerId !== held.pointer) return;
  const step = (track.offsetWidth - 2 * borders[0].offsetWidth) / sum(held.from.counts);
  const height = stages[0].querySelector('.range').offsetHeight;
  const level = levels.includes(held.handle);
  move(held.handle, held.from, level ? (held.y - event.clientY) / height : (event.clientX - held.x) / step);
});

// After a drag the visitor's state stands, whatever came from the server meanwhile.
function release(event) {
  if (!held || event.pointerId !== held.pointer) return;
  const { moved } = held;
  held = null;
  if (!moved) now = copy(props.value);
  draw();
  if (!same(now, props.value)) send();
}
root.addEventListener('pointerup', release);
root.addEventListener('pointercancel', release);

const KEYS = {
  ArrowRight: (by) => by.small, ArrowUp: (by) => by.small, PageUp: (by) => by.large, End: () => Infinity,
  ArrowLeft: (by) => -by.small, ArrowDown: (by) => -by.small, PageDown: (by) => -by.large, Home: () => -Infinity,
};

root.addEventListener('keydown', (event) => {
  const handle = event.target.closest('[role=slider]');
  if (!handle || event.ctrlKey || event.altKey || event.metaKey) return;
  const border = borders.includes(handle);
  if (border && event.key === 'Delete') automatic();
  else if (event.key in KEYS) {
    event.preventDefault(); // the page does not scroll
    if (!props.busy && !held) move(handle, now, KEYS[event.key](border ? BORDER : LEVEL));
  }
});

// The steps of the stages follow from the thresholds again; Python knows how many those are.
function automatic() {
  if (!props.busy && !held) change({ touched: false });
}
root.addEventListener('dblclick', (event) => event.target.closest('.edge') && automatic());
again.addEventListener('click', () => {
  borders[0].focus({ preventScroll: true }); // the button is about to vanish from under the focus
  automatic();
});

watch(Object.keys(props), () => {
  if (!held || props.busy || sum(props.value.counts) !== sum(now.counts)) {
    held = null;
    now = copy(props.value);
  }
  draw();
});
draw();
