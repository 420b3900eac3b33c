// Keeps the page and the model in the browser, so that it opens without a network. Lies beside the
// page; FILES and VERSION are filled in where the folder is put together.

const FILES = [];
const VERSION = '';
const PREFIX = 'audio-interaction-live-';
const CACHE = PREFIX + VERSION;

async function fill() {
  const cache = await caches.open(CACHE);
  // What the server says is new is fetched, whatever the browser has kept.
  await cache.addAll(FILES.map((file) => new Request(file, { cache: 'no-cache' })));
  await self.skipWaiting();
}

async function forgetOthers() {
  const names = await caches.keys();
  const old = names.filter((name) => name.startsWith(PREFIX) && name !== CACHE);
  await Promise.all(old.map((name) => caches.delete(name)));
  await self.clients.claim();
}

async function answer(request) {
  const cache = await caches.open(CACHE);
  return (await cache.match(request, { ignoreSearch: true })) ?? fetch(request);
}

self.addEventListener('install', (event) => event.waitUntil(fill()));
self.addEventListener('activate', (event) => event.waitUntil(forgetOthers()));
self.addEventListener('fetch', (event) => {
  if (event.request.method === 'GET') event.respondWith(answer(event.request));
});
