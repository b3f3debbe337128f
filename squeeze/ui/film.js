// The filmstrip: pointing at a frame shows it large, the arrows walk along, a click chooses where to branch.
const frames = () => [...element.querySelectorAll('.frame')];
const large = () => document.querySelector('#view img');

function show(frame) {
    const view = large();
    if (!view) return;
    view.dataset.last ??= view.src;
    view.dataset.words ??= view.alt;
    view.src = frame ? frame.querySelector('img').src : view.dataset.last;
    view.alt = frame ? frame.getAttribute('aria-label') : view.dataset.words;
}

function chosen() {
    return element.querySelector('.frame[aria-pressed=true]');
}

function walk(frame) {
    for (const other of frames()) other.tabIndex = other === frame ? 0 : -1;
    frame.focus();
    show(frame);
}

element.addEventListener('pointerover', (event) => show(event.target.closest('.frame') ?? chosen()));
element.addEventListener('pointerleave', () => show(chosen()));
element.addEventListener('focusout', () => show(chosen()));
element.addEventListener('click', (event) => {
    const frame = event.target.closest('.frame');
    if (!frame) return;
    const again = frame === chosen();
    const held = again || 'end' in frame.dataset ? null : frame;
    for (const other of frames()) other.setAttribute('aria-pressed', String(other === held));
    walk(frame);
    const run = element.querySelector('.film').dataset.run;
    trigger('pick', again ? {run, step: null} : {run, step: Number(frame.dataset.step)});
});
document.addEventListener('keydown', (event) => {
    const steps = {ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity}[event.key];
    const all = frames();
    if (!steps || !all.length || !element.isConnected || event.ctrlKey || event.metaKey || event.altKey) return;
    const from = all.indexOf(document.activeElement);
    // with the focus nowhere the arrows enter the film; Home and End scroll the page, as everywhere
    if (from < 0 && (document.activeElement !== document.body || !Number.isFinite(steps))) return;
    const start = from >= 0 ? from : steps < 0 ? all.length : -1;
    walk(all[Math.max(0, Math.min(all.length - 1, start + steps))]);
    event.preventDefault();
});
