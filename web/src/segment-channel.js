// Segments over one data channel, from the side of the one who asks (protocol.md section 1):
// REQUEST, then BINARY and its packets, or LACK. One REQUEST is open at a time. A transfer that
// goes wrong closes the channel, for what follows on it could not be told apart.

// Several times what any box holds a REQUEST; after such a silence the other end is gone.
const SILENCE_MS = 8000;
// Video, audio, and as much again: a player never asks for more at a time.
const MAX_WAITING = 4;
// Half a minute of 16 Mbit/s. What a header announces is allocated.
const MAX_SEGMENT = 64 * 1024 * 1024;

/** Why a channel did not bring a segment: lack, busy, closed, broken, or why the asker gave up. */
export class Refusal extends Error {
  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

export class SegmentChannel {
  #dc;
  #asked = null;
  #waiting = [];
  #silence;
  #newest = 0;
  #onClose;

  /** `dc`: an RTCDataChannel, open or opening. `onClose` is called once, whoever closed. */
  constructor(dc, onClose = () => {}) {
    this.#dc = dc;
    this.#onClose = onClose;
    dc.binaryType = 'arraybuffer';
    dc.onmessage = ({ data }) => (typeof data === 'string' ? this.#text(data) : this.#packet(data));
    dc.onclose = () => this.#end('closed');
  }

  get open() {
    return this.#dc?.readyState === 'open';
  }

  get idle() {
    return this.open && !this.#asked;
  }

  /**
   * `sn` is left out for what has no number. Resolves with { data, first }: an ArrayBuffer, and when its header came (performance.now()).
   * Rejects with a Refusal. When `signal` aborts, its reason is the refusal's; the answer that was
   * asked for is still received, and thrown away. Until it begins the channel refuses as busy: whoever
   * was late once is not waited for a second time. An answer that has begun is soon over.
   */
  request({ url, sn }, signal) {
    return new Promise((resolve, reject) => {
      if (!this.open) return reject(new Refusal('closed'));
      const late = this.#asked?.abandoned && !this.#asked.body;
      if (late || this.#waiting.length >= MAX_WAITING) return reject(new Refusal('busy'));
      const ask = { url, sn, resolve, reject, body: null, abandoned: false };
      signal?.addEventListener('abort', () => {
        ask.abandoned = true;
        this.#waiting = this.#waiting.filter((other) => other !== ask);
        reject(new Refusal(signal.reason));
      });
      this.#waiting.push(ask);
      this.#next();
    });
  }

  close() {
    if (this.open) this.#send({ event: 'CLOSE' });
    this.#end('closed');
  }

  #send(message) {
    this.#dc.send(JSON.stringify(message));
  }

  #next() {
    if (this.#asked || !this.open) return;
    this.#asked = this.#waiting.shift() ?? null;
    if (!this.#asked) return;
    const { url, sn } = this.#asked;
    this.#send({ event: 'REQUEST', url, sn });
    this.#heard();
  }

  #heard() {
    clearTimeout(this.#silence);
    if (this.#asked) this.#silence = setTimeout(() => this.#end('broken'), SILENCE_MS);
  }

  #done(settle) {
    const ask = this.#asked;
    this.#asked = null;
    clearTimeout(this.#silence);
    settle(ask);
    this.#next();
  }

  #text(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return this.#end('broken');
    }
    switch (message?.event) {
      case 'BINARY':
        return this.#header(message);
      case 'LACK':
        if (this.#asked && !this.#asked.body && message.url === this.#asked.url) {
          this.#done((ask) => ask.reject(new Refusal('lack')));
        }
        return;
      case 'KEEPALIVE':
        return this.#send({ event: 'KEEPALIVE-ACK', current: this.#newest });
      case 'CLOSE':
        return this.#end('closed');
      case 'ERROR':
        // Without a REQUEST there is nothing that it could have spoilt.
        return this.#asked && this.#end('broken');
    }
  }

  #header({ url, attachments, size }) {
    const ask = this.#asked;
    const sane =
      Number.isInteger(size) && size > 0 && size <= MAX_SEGMENT &&
      Number.isInteger(attachments) && attachments > 0 && attachments <= size;
    if (!ask || ask.body || url !== ask.url || !sane) return this.#end('broken');
    ask.body = new Uint8Array(size);
    ask.filled = 0;
    ask.missing = attachments;
    ask.first = performance.now();
    this.#heard();
  }

  #packet(packet) {
    const ask = this.#asked;
    if (!ask?.body || ask.filled + packet.byteLength > ask.body.length) return this.#end('broken');
    ask.body.set(new Uint8Array(packet), ask.filled);
    ask.filled += packet.byteLength;
    ask.missing -= 1;
    this.#heard();
    if (ask.missing > 0) return;
    if (ask.filled !== ask.body.length) return this.#end('broken');
    this.#newest = Math.max(this.#newest, ask.sn ?? 0);
    this.#done(() => ask.resolve({ data: ask.body.buffer, first: ask.first }));
  }

  #end(reason) {
    if (!this.#dc) return;
    const dc = this.#dc;
    this.#dc = null;
    dc.onmessage = dc.onclose = null;
    clearTimeout(this.#silence);
    for (const ask of [this.#asked, ...this.#waiting]) ask?.reject(new Refusal(reason));
    this.#asked = null;
    this.#waiting = [];
    dc.close();
    this.#onClose(reason);
  }
}
