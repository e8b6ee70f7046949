// The signalling client (protocol.md section 2): enters a channel, is told whom to connect to, and
// carries offers, answers and candidates. It comes back when the socket drops; data channels that
// are open go on serving meanwhile.

import { backoff } from './backoff.js';

// Field clients report every 30 s; it also keeps middleboxes from forgetting the socket.
const LEVEL_EVERY_MS = 30_000;

export class Signal {
  /**
   * `token`: what the server wants to see from who enters, if anything.
   * `handlers`: onState('connecting' | 'entered' | 'rejected' | 'offline'),
   * onConnect(remoteId, initiator), onSignal(remoteId, data), onDisconnect(remoteIds).
   */
  constructor(url, channel, token, handlers) {
    this.url = url;
    this.channel = channel;
    this.token = token;
    this.handlers = handlers;
    this.peerId = null;
    this.attempt = 0;
    this.left = false;
  }

  start() {
    this.left = false;
    clearTimeout(this.retryTimer);
    this.handlers.onState('connecting');
    const socket = (this.socket = new WebSocket(this.url));
    socket.onopen = () => this.#send({ action: 'enter', channel: this.channel, token: this.token });
    socket.onmessage = (event) => {
      if (socket === this.socket) this.#receive(event.data);
    };
    // An error is always followed by close.
    socket.onclose = () => {
      if (socket === this.socket) this.#dropped();
    };
  }

  /** Comes back as somebody new, after `delay` ms: a peer id that has failed may be remembered. */
  restart(delay) {
    if (this.left) return;
    this.#close();
    this.handlers.onState('offline');
    this.retryTimer = setTimeout(() => this.start(), delay);
  }

  /** The page goes away. */
  leave() {
    this.left = true;
    this.#close();
  }

  signal(remoteId, data) {
    this.#send({ action: 'signal', to_peer_id: remoteId, data });
  }

  /** `event`: 'dc_opened', 'dc_failed' or 'dc_closed'. */
  report(event, ownId, remoteId) {
    // Own id and remote id without a separator (protocol.md section 3).
    this.#send({ action: event, dc_id: ownId + remoteId });
  }

  #close() {
    const socket = this.socket;
    if (this.peerId !== null) this.#send({ action: 'leave', peer_id: this.peerId });
    this.socket = null;
    this.peerId = null;
    clearTimeout(this.retryTimer);
    clearInterval(this.levelTimer);
    socket?.close(1000);
  }

  #dropped() {
    this.#close();
    if (this.left) return;
    this.handlers.onState('offline');
    this.retryTimer = setTimeout(() => this.start(), backoff(this.attempt++));
  }

  #send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  #receive(text) {
    const message = parse(text);
    switch (message?.action) {
      case 'accept':
        this.peerId = message.peer_id;
        this.attempt = 0;
        clearInterval(this.levelTimer);
        // This page holds nothing for others, so it is no parent: level 0.
        this.levelTimer = setInterval(() => this.#send({ action: 'level', level: 0 }), LEVEL_EVERY_MS);
        this.handlers.onState('entered');
        break;
      case 'reject':
        this.handlers.onState('rejected');
        break;
      case 'connect':
        this.handlers.onConnect(message.to_peer_id, message.initiator === true);
        break;
      case 'signal': {
        const data = typeof message.data === 'string' ? parse(message.data) : message.data;
        if (data) this.handlers.onSignal(message.from_peer_id, data);
        break;
      }
      case 'disconnect':
        this.handlers.onDisconnect(disconnected(message));
        break;
    }
  }
}

/** The peers that a `disconnect` names, in the forms that servers use; null means all of them. */
export function disconnected(message) {
  const ids = message.peer_ids ?? message.peers ?? message.to_peer_id ?? message.peer_id;
  if (ids === undefined || ids === null) return null;
  return Array.isArray(ids) ? ids.map((id) => id?.peer_id ?? id) : [ids];
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
