// The page of simple-peer.mjs: one viewer with the wire shapes of field clients.

/* global SimplePeer */

// What the client waits for a whole segment.
const LATE_MS = 2000;
// Field clients report every 30 s; sooner here, so that a short run has some of them.
const LEVEL_EVERY_MS = 5000;

let peer = null;
let label = null;
let pending = null;

// The lines of an offer that browsers of 2018 wrote in another way, and did not write.
const TODAY = [/^m=application (\d+) UDP\/DTLS\/SCTP webrtc-datachannel\r\n/m, /^a=sctp-port:(\d+)\r\n/m];
const OF_2018 = ['m=application $1 DTLS/SCTP 5000\r\n', 'a=sctpmap:$1 webrtc-datachannel 1024\r\n'];

function as2018(sdp) {
  const old = TODAY.reduce((text, line, index) => text.replace(line, OF_2018[index]), sdp);
  return old.replace(/^a=max-message-size:.*\r\n/m, '');
}

function is2018(sdp) {
  return /^m=application \d+ DTLS\/SCTP 5000\r$/m.test(sdp) && sdp.includes('\r\na=sctpmap:5000 webrtc-datachannel ')
    && !sdp.includes('sctp-port') && !sdp.includes('max-message-size');
}

/**
 * Enters the channel and waits for an open data channel; resolves with the ms that it took.
 * `form`: 'today' or '2018', how offer and answer are written.
 */
function connect(signalUrl, channel, form) {
  const begun = performance.now();
  return new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error('no data channel within 15 s')), 15_000);
    const socket = new WebSocket(signalUrl);
    let ownId = null;
    const send = (message) => socket.send(JSON.stringify(message));
    socket.onerror = () => reject(new Error(`cannot reach ${signalUrl}`));
    // Extra fields, and an order of keys that is not the document's.
    socket.onopen = () => send({ channel, action: 'enter', browser: 'chrome' });
    // No `action`, and the level is a string.
    setInterval(() => ownId !== null && send({ channel, peer_id: ownId, level: '0.00' }), LEVEL_EVERY_MS);

    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.action === 'accept') ownId = message.peer_id;
      if (message.action === 'reject') reject(new Error('the server rejects the channel'));
      if (message.action === 'connect' && message.initiator && !peer) meet(message.to_peer_id);
      if (message.action === 'signal' && peer) {
        const { type, sdp } = message.data;
        if (type === 'answer' && is2018(sdp) !== (form === '2018')) reject(new Error(`not in the form of ${form}: ${sdp}`));
        peer.signal(message.data);
      }
    };

    function meet(remoteId) {
      peer = new SimplePeer({ initiator: true, trickle: true, objectMode: true, config: { iceServers: [] } });
      label = peer.channelName;
      // Offers and candidates go as objects.
      const written = (data) => (data.type === 'offer' && form === '2018' ? { ...data, sdp: as2018(data.sdp) } : data);
      peer.on('signal', (data) => send({ action: 'signal', peer_id: ownId, to_peer_id: remoteId, channel, data: written(data) }));
      peer.on('connect', () => {
        send({ action: 'dc_opened', dc_id: ownId + remoteId, channel });
        resolve(Math.round(performance.now() - begun));
      });
      peer.on('data', receive);
      peer.on('error', (error) => reject(error));
      peer.on('close', () => finish({ kind: 'broken', why: 'the data channel closed' }));
    }
  });
}

/** Asks for a segment. Resolves with { kind: 'segment' | 'lack' | 'late' | 'broken', ms, … }. */
function request(url, sn) {
  return new Promise((resolve) => {
    pending = { url, begun: performance.now(), resolve, packets: [], header: null };
    pending.timer = setTimeout(() => finish({ kind: 'late' }), LATE_MS);
    if (peer.destroyed) return finish({ kind: 'broken', why: 'the data channel is closed' });
    peer.send(JSON.stringify({ event: 'REQUEST', url, sn }));
  });
}

function finish(result) {
  if (!pending) return;
  const { begun, timer, resolve } = pending;
  pending = null;
  clearTimeout(timer);
  resolve({ ms: performance.now() - begun, ...result });
}

function receive(data) {
  if (typeof data === 'string') return control(JSON.parse(data));
  // Packets of an answer that came too late.
  if (!pending?.header) return;
  pending.packets.push(data);
  if (pending.packets.length === pending.header.attachments) joined(pending);
}

function control(message) {
  // Late answers name what was asked before.
  if (message.url !== pending?.url) return;
  if (message.event === 'LACK') finish({ kind: 'lack' });
  if (message.event === 'BINARY') pending.header = message;
}

async function joined({ header, packets, begun }) {
  const ms = performance.now() - begun;
  const bytes = new Uint8Array(await new Blob(packets).arrayBuffer());
  if (bytes.length !== header.size) {
    return finish({ kind: 'broken', why: `${bytes.length} bytes, announced ${header.size}` });
  }
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  const sha256 = Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('');
  finish({ kind: 'segment', ms, size: bytes.length, sha256 });
}

const about = () => `${label} (simple-peer)`;

window.viewer = { connect, request, about };
