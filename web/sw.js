/* The page offline: `files.js`, which each export writes, lists the files and names their version. */

importScripts("files.js");

const CACHE = `faces-${self.FILES.version}`;
const FOLDER = new URL("./", self.location.href);

// `no-cache` asks the server whether a file has changed, so that files of two versions never mix.
const requests = () => ["./", "files.js", ...self.FILES.paths].map((path) => new Request(new URL(path, FOLDER), { cache: "no-cache" }));

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests())));
});

self.addEventListener("activate", (event) => {
  const removeOthers = async () => {
    const names = await caches.keys();
    await Promise.all(names.filter((name) => name.startsWith("faces-") && name !== CACHE).map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(removeOthers());
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(FOLDER.href)) {
    const kept = caches.open(CACHE).then((cache) => cache.match(request, { ignoreSearch: true }));
    event.respondWith(kept.then((found) => found ?? fetch(request)));
  }
});
