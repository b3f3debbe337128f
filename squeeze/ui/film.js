// The filmstrip: pointing at a frame shows it large, the arrows walk along, a click chooses where to branch. It grows by
// each preview that comes to the page, so that none travels twice; when the run ends the server sends it whole.
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

function grow({src, alt, dataset: {step, stage}}) {
    const strip = element.querySelector('.film');
    if (!step || !strip || strip.dataset.done === 'true' || element.querySelector(`.frame[data-step="${step}"]`)) return;
    strip.querySelector('.none')?.remove();
    const frame = document.createElement('button');
    const reach = strip.querySelector('.frame') ? -1 : 0; // Tab comes to the first, the arrows to the others
    Object.assign(frame, {type: 'button', className: `frame stage-${stage}`, title: alt, tabIndex: reach});
    frame.dataset.step = step;
    frame.setAttribute('aria-label', alt);
    frame.setAttribute('aria-pressed', 'false');
    frame.append(Object.assign(new Image(), {src, alt: ''}));
    strip.append(frame);
    if (!strip.matches(':hover')) strip.scrollLeft = strip.scrollWidth; // the newest is in sight
}

// While a run goes on each preview is a new picture; what is pointed at stays large all the same.
const previews = new MutationObserver(() => {
    const view = large();
    if (!view) return;
    delete view.dataset.last;
    delete view.dataset.words;
    grow(view);
    const held = element.querySelector('.frame:hover, .frame:focus-visible');
    if (held) show(held);
});
(function listen() { // the picture may come to the page after the film
    const view = document.querySelector('#view');
    if (view) previews.observe(view, {subtree: true, childList: true, attributeFilter: ['data-step']});
    else requestAnimationFrame(listen);
})();

element.addEventListener('pointerover', (event) => show(event.target.closest('.frame') ?? chosen()));
element.addEventListener('pointerleave', () => show(chosen()));
element.addEventListener('focusout', () => show(chosen()));
element.addEventListener('click', (event) => {
    const frame = event.target.closest('.frame');
    if (!frame || event.detail > 1) return; // the second click of a double one takes nothing back
    if (document.querySelector('.status[data-state=busy]')) return walk(frame); // nothing branches off while a run goes
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
