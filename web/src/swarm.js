// Signalling and peers together: who is connected, and whom to ask for a segment.

import { backoff } from './backoff.js';
import { Peer } from './peer.js';
import { Signal } from './signal.js';

// A scheduler gives a viewer one to three parents.
const MAX_PEERS = 8;

export class Swarm {
  /** `onChange` is called when `state` or the number of open channels has changed. */
  constructor(url, channel, token, onChange) {
    this.state = 'offline';
    this.peers = [];
    this.losses = 0;
    this.openWaiters = new Set();
    this.onChange = onChange;
    this.signal = new Signal(url, channel, token, {
      onState: (state) => {
        this.state = state;
        this.onChange();
      },
      onConnect: (remoteId, initiator) => this.#connect(remoteId, initiator),
      onSignal: (remoteId, data) => this.#latest(remoteId)?.signal(data),
      onDisconnect: (remoteIds) => {
        const named = this.peers.filter((peer) => remoteIds === null || remoteIds.includes(peer.remoteId));
        for (const peer of named) peer.close();
      },
    });
  }

  start() {
    this.signal.start();
  }

  leave() {
    this.signal.leave();
    for (const peer of [...this.peers]) peer.close();
  }

  /** Number of open channels. */
  get connected() {
    return this.peers.filter((peer) => peer.channel.open).length;
  }

  /** This page's ids at the other ends of its open channels. */
  get ids() {
    return this.peers.filter((peer) => peer.channel.open).map((peer) => peer.ownId);
  }

  /** Whether a channel may still open soon. */
  get hopeful() {
    return this.state === 'connecting' || this.state === 'entered';
  }

  /** An open channel that is not in `tried`, an idle one if there is one. */
  pick(tried) {
    const open = this.peers.map((peer) => peer.channel).filter((channel) => channel.open && !tried.has(channel));
    return open.find((channel) => channel.idle) ?? open[0];
  }

  /** Resolves when a channel is open, at the latest after `ms` or when `signal` aborts. */
  whenOpen(ms, signal) {
    if (this.connected) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.openWaiters.delete(done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      this.openWaiters.add(done);
      signal.addEventListener('abort', done, { once: true });
    });
  }

  #latest(remoteId) {
    return this.peers.findLast((peer) => peer.remoteId === remoteId);
  }

  #connect(remoteId, initiator) {
    const ownId = this.signal.peerId;
    // This page only receives; whoever wants to receive from it is told to look elsewhere.
    if (!initiator || this.peers.length >= MAX_PEERS) return this.signal.report('dc_failed', ownId, remoteId);
    const peer = new Peer(ownId, remoteId, {
      send: (data) => this.signal.signal(remoteId, data),
      onOpen: () => this.#opened(peer),
      onClose: () => this.#closed(peer),
    });
    this.peers.push(peer);
    peer.offer().catch(() => peer.close());
    this.onChange();
  }

  #opened(peer) {
    this.losses = 0;
    this.signal.report('dc_opened', peer.ownId, peer.remoteId);
    // After a reconnect the same box may be here twice, by another id if it has reconnected as well:
    // what was met by an earlier entry makes room.
    for (const other of [...this.peers]) {
      const outdated = other.ownId !== peer.ownId || other.remoteId === peer.remoteId;
      if (other !== peer && outdated) other.close();
    }
    for (const done of [...this.openWaiters]) done();
    this.onChange();
  }

  #closed(peer) {
    this.peers = this.peers.filter((other) => other !== peer);
    this.signal.report(peer.opened ? 'dc_closed' : 'dc_failed', peer.ownId, peer.remoteId);
    // Nobody is left: enter again, with a fresh id, to be given somebody.
    if (this.peers.length === 0 && this.state !== 'offline') this.signal.restart(backoff(this.losses++));
    this.onChange();
  }
}
