// Follow links and forms to other pages of the explorer without loading the whole application again.
// Streamlit listens to popstate and runs the page with the address that it then finds.
(() => {
  if (window.neurolabNavigates) return;
  window.neurolabNavigates = true;
  const go = (search) => {
    history.pushState({}, "", location.pathname + search);
    window.dispatchEvent(new PopStateEvent("popstate"));
    const main = document.querySelector('[data-testid="stMain"]');
    if (main) main.scrollTo(0, 0);
  };
  document.addEventListener("click", (event) => {
    const anchor = event.target.closest && event.target.closest("a");
    const address = anchor && anchor.getAttribute("href");
    const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
    if (!plain || !address || !address.startsWith("?")) return;
    event.preventDefault();
    go(address);
  });
  document.addEventListener("submit", (event) => {
    if (!event.target.classList.contains("nl-find")) return;
    event.preventDefault();
    go("?" + new URLSearchParams(new FormData(event.target)));
  });
})();
