/** The service worker, which lets the page work without a network from the second visit on. */

/** Register it, once the first face is there: it must not slow the first visit. */
export async function keepOffline() {
  try {
    await navigator.serviceWorker?.register(new URL("../sw.js", import.meta.url));
  } catch (error) {
    console.info("This browser keeps no pages for offline use:", error);
  }
}
