// Ctrl+Enter (Cmd+Enter) generates from anywhere, Escape stops; the buttons' titles say so. And what gradio leaves to
// the mouse: the border of the comparison moves by keys, so does a choice of several, and folding parts say whether they
// are open. And files dropped: into a box that is full, too, and beside the boxes without leaving the page. And where
// the preview stands below Generate and is cut off, as on a phone, the page scrolls when a run starts, so that both show.
() => {
    const keys = {generate: ['Ctrl+Enter or ⌘+Enter', 'Control+Enter Meta+Enter'], stop: ['Esc', 'Escape']};
    const button = (name) => document.getElementById(name);
    for (const [name, [title, shortcut]] of Object.entries(keys)) {
        button(name).title = title;
        button(name).setAttribute('aria-keyshortcuts', shortcut);
    }
    const press = (event, name) => {
        event.preventDefault();
        event.stopPropagation(); // the prompt box would take the same Enter and start a second run
        if (!event.repeat) button(name).click(); // a disabled button ignores it
    };
    const showBoth = () => {
        const [asked, seen] = ['generate', 'view'].map((name) => button(name).getBoundingClientRect());
        if (seen.bottom <= innerHeight || seen.top < asked.bottom) return;
        const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
        button('generate').scrollIntoView({block: 'start', behavior: still ? 'instant' : 'smooth'});
    };
    button('generate').addEventListener('click', showBoth);
    button('prompt').addEventListener('keydown', (event) => {
        if (event.key === 'Enter' && !event.shiftKey && !event.isComposing && !button('generate').disabled) showBoth();
    });
    document.addEventListener('keydown', (event) => {
        if (event.isComposing || event.altKey || event.shiftKey) return;
        if (event.target.closest('dialog, [role=dialog], [role=menu], [role=listbox]')) return; // theirs
        const held = event.ctrlKey || event.metaKey;
        if (event.key === 'Enter' && held) press(event, 'generate');
        if (event.key === 'Escape' && !held && !button('stop').disabled) press(event, 'stop');
    }, true); // before the parts of the page see the key

    const takes = (event) => event.target.closest?.('.reference, #recipe-file');
    const carries = (event) => event.isTrusted && event.dataTransfer?.types.includes('Files');
    document.addEventListener('dragover', (event) => {
        if (!carries(event) || takes(event)) return;
        event.preventDefault(); // the browser would open the file
        event.dataTransfer.dropEffect = 'none';
    });
    document.addEventListener('drop', (event) => {
        if (!carries(event) || !takes(event)) return;
        event.preventDefault();
        event.stopPropagation();
        const kept = new DataTransfer(); // a full box is emptied first, and meanwhile the browser forgets the files
        for (const file of event.dataTransfer.files) kept.items.add(file);
        const again = new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: kept});
        event.target.dispatchEvent(again);
    }, true);

    const steps = {
        ArrowRight: 0.02, ArrowUp: 0.02, PageUp: 0.1, End: 1, ArrowLeft: -0.02, ArrowDown: -0.02, PageDown: -0.1, Home: -1,
    };
    const border = () => document.querySelector('#compare [data-testid=slider]');
    const upper = () => document.querySelector('#compare img.fixed');
    const share = () => Number(upper().style.clipPath.match(/([\d.]+)%\)/)?.[1] ?? 50) / 100;
    document.addEventListener('keydown', (event) => {
        if (event.target !== border() || !(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        const {left, width, top} = upper().getBoundingClientRect();
        const at = {clientX: left + width * Math.min(1, Math.max(0, share() + steps[event.key])), clientY: top + 1};
        for (const name of ['mousedown', 'mouseup']) // a click there: the only way in that gradio has
            event.target.dispatchEvent(new MouseEvent(name, {...at, bubbles: true, view: window}));
    });
    const set = (part, attributes) => {
        for (const [name, value] of Object.entries(attributes))
            if (part.getAttribute(name) !== String(value)) part.setAttribute(name, value);
    };
    const tell = () => {
        for (const choice of ['preset', 'uncond', 'late-text']) // gradio gives each of its buttons a name of its own
            for (const one of document.querySelectorAll(`#${choice} input`)) set(one, {name: choice});
        for (const fold of document.querySelectorAll('button.label-wrap'))
            set(fold, {'aria-expanded': fold.classList.contains('open')});
        if (!border() || !upper()) return;
        const now = Math.round(100 * share());
        set(border(), {
            role: 'slider', tabindex: 0, 'aria-label': 'Border between the two pictures', 'aria-valuemin': 0,
            'aria-valuemax': 100, 'aria-valuenow': now, 'aria-valuetext': `${now} % of the picture before`,
        });
    };
    const watched = {subtree: true, childList: true, attributes: true, attributeFilter: ['class', 'style', 'name']};
    for (const part of ['preset', 'advanced', 'about', 'compare', 'more'].map(button))
        if (part) new MutationObserver(tell).observe(part, watched);
    tell();
}
