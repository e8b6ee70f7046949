// The watch page: a player that asks the box first, and shows what came from where.

import Hls from 'hls.js';

import { backoff } from './backoff.js';
import { pickChannel, signalUrl } from './config.js';
import { createLoader } from './loader.js';
import { Stalls } from './stalls.js';
import { Swarm } from './swarm.js';
import { RECENT, Tally } from './tally.js';
import { show, showChannels, showSegment } from './view.js';

const CONFIG = '/watch/config.json';

const video = document.getElementById('video');
const tally = new Tally();
const stalls = new Stalls();
let swarm = null;
let hls = null;
let channelName = null;
let started = null;
let lastError = null;

/** Everything this page counts, for the tests; times in seconds unless their name says ms. */
function stats() {
  const { segments, p2p, http, p2pBytes, httpBytes, share, failed, reasons, recent } = tally;
  const now = performance.now();
  return {
    channel: channelName,
    segments, p2p, http, p2pBytes, httpBytes, share, failed,
    reasons: { ...reasons },
    lack: reasons.lack ?? 0,
    timeouts: reasons.timeout ?? 0,
    recent: recent.map((segment) => ({ ...segment })),
    stalls: stalls.countAt(now),
    stallMs: Math.round(stalls.totalMs),
    playing: started !== null && !video.paused,
    currentTime: video.currentTime,
    // How long ago playback began, and how much of the channel was shown since.
    playingFor: started === null ? 0 : (now - started.at) / 1000,
    advanced: started === null ? 0 : video.currentTime - started.position,
    buffer: ahead(),
    latency: hls?.latency ?? NaN,
    connected: swarm?.connected ?? 0,
    ids: swarm?.ids ?? [],
    signal: swarm?.state ?? 'none',
    lastError,
  };
}

window.edgeseed = {
  get stats() {
    return stats();
  },
};

/** Seconds of media in front of the playhead. */
function ahead() {
  const { buffered, currentTime } = video;
  for (let i = 0; i < buffered.length; i++) {
    // A playhead a little before a range is moved into it by the player.
    if (buffered.start(i) <= currentTime + 0.5 && currentTime < buffered.end(i)) {
      return buffered.end(i) - currentTime;
    }
  }
  return 0;
}

function watchPlayback() {
  const now = () => performance.now();
  video.addEventListener('playing', () => {
    started ??= { at: now(), position: video.currentTime };
    lastError = null;
    stalls.end(now());
  });
  video.addEventListener('waiting', () => {
    if (started && !video.seeking && !video.paused) stalls.begin(now());
  });
  // Progress ends a stall; so does a viewer who pauses or seeks.
  for (const event of ['timeupdate', 'pause', 'seeking', 'ended']) {
    video.addEventListener(event, () => stalls.end(now()));
  }
}

function onSegment(segment) {
  tally.add(segment);
  showSegment(segment, RECENT);
}

function play(channel) {
  if (!Hls.isSupported()) {
    // Safari on phones plays HLS by itself; there the box helps by its own playlist.
    video.src = channel.live ?? channel.url;
    return;
  }
  const player = { ahead, playing: () => started !== null };
  hls = new Hls({
    fLoader: createLoader(Hls.DefaultConfig.loader, swarm, player, onSegment),
    // A segment that is loaded only to measure the line would be asked for twice.
    testBandwidth: false,
    // The box has whole segments; the parts of a low-latency playlist would all come over HTTP.
    lowLatencyMode: false,
    // Long enough to step back a little, short enough for a small device.
    backBufferLength: 30,
  });
  let source = channel.url;
  let attempt = 0;
  hls.on(Hls.Events.ERROR, (_, data) => {
    if (data.details === Hls.ErrorDetails.BUFFER_STALLED_ERROR && started && !video.seeking) {
      stalls.begin(performance.now());
    }
    if (!data.fatal) return;
    lastError = `Cannot play: ${data.details}`;
    if (data.type === Hls.ErrorTypes.MEDIA_ERROR) return hls.recoverMediaError();
    // The origin cannot be reached, or does not allow this page to read it: the box has the same.
    if (channel.live && source === channel.url) source = channel.live;
    else source = channel.url;
    setTimeout(() => hls.loadSource(source), backoff(attempt++));
  });
  hls.on(Hls.Events.FRAG_BUFFERED, () => (attempt = 0));
  hls.loadSource(source);
  hls.attachMedia(video);
}

async function loadConfig() {
  for (let attempt = 0; ; attempt++) {
    try {
      const answer = await fetch(CONFIG, { cache: 'no-store' });
      if (answer.ok) return await answer.json();
      lastError = `The box answered ${answer.status}, retrying`;
    } catch {
      lastError = 'The box does not answer, retrying';
    }
    await new Promise((resolve) => setTimeout(resolve, backoff(attempt)));
  }
}

async function main() {
  setInterval(() => show(stats()), 250);
  const config = await loadConfig();
  const channel = pickChannel(config, location.search);
  if (!channel) {
    lastError = 'The box has no channel';
    return;
  }
  channelName = channel.name;
  document.title = `${channel.name}: edgeseed`;
  showChannels(config.channels, channel.name);
  const url = signalUrl(config, location);
  if (url) {
    swarm = new Swarm(url, channel.id, config.signal_token, () => show(stats()));
    swarm.start();
  }
  watchPlayback();
  play(channel);
  addEventListener('pagehide', () => swarm?.leave());
  // Back from the browser's page cache: the connections are gone, so begin anew.
  addEventListener('pageshow', (event) => event.persisted && location.reload());
}

main();
