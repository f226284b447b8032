// A view's button chooses its augmentation, and keeps the focus when the answer is drawn again.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) trigger(button.dataset.event, { name: button.dataset.name });
});
let focused = null;
element.addEventListener("focusin", (event) => { focused = event.target.dataset?.name ?? null; });
element.addEventListener("focusout", (event) => { if (event.target.isConnected && event.relatedTarget) focused = null; });
new MutationObserver(() => {
  if (focused && document.activeElement === document.body) element.querySelector(`button[data-name="${CSS.escape(focused)}"]`)?.focus();
}).observe(element, { childList: true, subtree: true });
