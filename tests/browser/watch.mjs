// Viewers on the watch page: do they play without a stall, and do their segments come from the box?
//
//   node watch.mjs --url http://127.0.0.1:8080/watch --seconds 40 --viewers 3 --min-p2p 80 --shot /tmp/shots

import { mkdir } from 'node:fs/promises';
import path from 'node:path';

import { launch, options, sleep, verdict } from './chromium.mjs';

const { url, seconds, viewers, 'min-p2p': minP2p, shot } = options({
  url: null, seconds: 40, viewers: 1, 'min-p2p': 80, shot: '',
});

const browser = await launch();
const failures = [];
try {
  // A context of its own for each: neither cache nor connections are shared.
  const pages = await Promise.all(
    Array.from({ length: viewers }, async (_, index) => {
      const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
      const page = await context.newPage();
      page.on('pageerror', (error) => failures.push(`viewer ${index + 1}: ${error.message}`));
      page.on('console', (message) => {
        if (message.type() === 'error') console.log(`viewer ${index + 1}: ${message.text()}`);
      });
      await page.goto(url);
      return page;
    }),
  );
  await sleep(seconds * 1000);

  const rows = [];
  for (const [index, page] of pages.entries()) {
    const stats = await page.evaluate(() => window.edgeseed?.stats);
    if (!stats) {
      failures.push(`viewer ${index + 1}: the page does not count (is it the watch page?)`);
      continue;
    }
    if (shot) {
      await mkdir(shot, { recursive: true });
      await page.screenshot({ path: path.join(shot, `viewer-${index + 1}.png`), fullPage: true });
    }
    rows.push(row(stats));
    failures.push(...shortcomings(stats).map((text) => `viewer ${index + 1}: ${text}`));
  }
  console.table(rows);
} finally {
  await browser.close();
}
verdict(failures);

function row(stats) {
  const times = stats.recent.filter((s) => s.source === 'p2p').map((s) => s.ms).sort((a, b) => a - b);
  return {
    segments: stats.segments,
    box: stats.p2p,
    http: stats.http,
    'box %': stats.share?.toFixed(1),
    'box MB': (stats.p2pBytes / 1e6).toFixed(1),
    'p50 ms': Math.round(times[times.length >> 1]),
    'worst ms': Math.round(times.at(-1)),
    stalls: stats.stalls,
    'played s': stats.advanced.toFixed(1),
    'of s': stats.playingFor.toFixed(1),
    'behind s': stats.latency?.toFixed(1),
    why: JSON.stringify(stats.reasons),
  };
}

function shortcomings(stats) {
  const found = [];
  if (!stats.playing) return [`does not play: ${stats.lastError ?? 'no reason given'}`];
  if (stats.share < minP2p) found.push(`${stats.share.toFixed(1)} % from the box, wanted ${minP2p} %`);
  if (stats.stalls > 0) found.push(`${stats.stalls} stalls, ${stats.stallMs} ms`);
  if (stats.failed > 0) found.push(`${stats.failed} segments failed`);
  // A start takes a few seconds; after it, a second played is a second gone by.
  if (stats.playingFor < seconds - 8) found.push(`began to play only ${(seconds - stats.playingFor).toFixed(1)} s after the start`);
  if (Math.abs(stats.advanced - stats.playingFor) > 1.5) {
    found.push(`showed ${stats.advanced.toFixed(1)} s in ${stats.playingFor.toFixed(1)} s`);
  }
  return found;
}
