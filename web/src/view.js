// The numbers on the page.

import { bytesText } from './tally.js';

const byId = (id) => document.getElementById(id);

/** Why a segment came over HTTP, in the viewer's words. */
const REASONS = {
  lack: 'the box did not have it yet',
  timeout: 'the box was late',
  busy: 'the box was still answering',
  closed: 'the connection closed',
  broken: 'a transfer went wrong',
  'no-peer': 'no box connected',
  'no-signal': 'no signalling server configured',
};

export const SIGNAL_TEXT = {
  offline: 'offline, retrying',
  connecting: 'connecting',
  entered: 'connected',
  rejected: 'channel refused',
  none: 'not configured',
};

/** Fills the channel selector, which only shows when there is something to choose. */
export function showChannels(channels, current) {
  const select = byId('chooser').querySelector('select');
  select.replaceChildren(...channels.map(({ name }) => new Option(name, name, false, name === current)));
  select.onchange = () => {
    location.search = new URLSearchParams({ channel: select.value });
  };
  byId('chooser').hidden = channels.length < 2;
}

/** `stats` is what `window.edgeseed.stats` is. */
export function show(stats) {
  const { p2p, http, share, connected } = stats;
  const state = byId('state');
  set(state, stateText(stats));
  state.dataset.good = String(stats.playing && connected > 0);

  set(byId('share'), share === null ? '–' : '');
  if (share !== null) byId('share').innerHTML = `${Math.round(share)}<small>%</small>`;
  byId('meter').classList.toggle('empty', share === null);
  byId('meter').firstElementChild.style.width = `${share ?? 0}%`;
  set(byId('p2p'), `${p2p} · ${bytesText(stats.p2pBytes)}`);
  set(byId('http'), `${http} · ${bytesText(stats.httpBytes)}`);
  set(byId('connected'), connected);
  set(byId('stalls'), stats.stalls ? `${stats.stalls} · ${(stats.stallMs / 1000).toFixed(1)} s` : '0');
  byId('stalls').classList.toggle('bad', stats.stalls > 0);
  set(byId('buffer'), seconds(stats.buffer));
  set(byId('latency'), seconds(stats.latency));
  set(byId('signal'), SIGNAL_TEXT[stats.signal]);
  const reasons = Object.entries(stats.reasons).map(([reason, n]) => `${n} × ${REASONS[reason] ?? reason}`);
  set(byId('why'), reasons.length ? `Over HTTP: ${reasons.join(', ')}` : '');
}

/** Adds a segment to the strip. */
export function showSegment({ sn, source, reason, ms, ok }, most) {
  const cell = document.createElement('li');
  cell.className = ok ? source : 'failed';
  const number = document.createElement('b');
  number.textContent = sn === 'initSegment' ? 'init' : sn;
  const time = document.createElement('span');
  time.textContent = `${Math.round(ms)} ms`;
  cell.append(number, time);
  cell.title = source === 'p2p' ? 'from the box' : `over HTTP: ${REASONS[reason] ?? reason}`;
  const strip = byId('strip');
  strip.append(cell);
  while (strip.children.length > most) strip.firstChild.remove();
}

function stateText({ playing, connected, lastError, share, signal }) {
  if (!playing) return lastError ?? 'Starting';
  if (connected > 0) return 'Playing, box connected';
  if (signal === 'none') return 'Playing over HTTP';
  return share ? 'Playing over HTTP, box lost' : 'Playing over HTTP, no box yet';
}

function seconds(value) {
  return Number.isFinite(value) ? `${value.toFixed(1)} s` : '–';
}

// Only real changes touch the page: `role=status` would speak, and the strip would flicker.
function set(element, text) {
  const value = String(text);
  if (element.textContent !== value) element.textContent = value;
}
