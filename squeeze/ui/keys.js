// Ctrl+Enter (Cmd+Enter) generates from anywhere, Escape stops; the buttons' titles say so.
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
    document.addEventListener('keydown', (event) => {
        if (event.isComposing || event.altKey || event.shiftKey) return;
        const held = event.ctrlKey || event.metaKey;
        if (event.key === 'Enter' && held) press(event, 'generate');
        const theirs = event.target.closest('dialog, [role=dialog], [role=menu], [role=listbox]');
        if (event.key === 'Escape' && !held && !theirs && !button('stop').disabled) press(event, 'stop');
    }, true); // before the parts of the page see the key
}
