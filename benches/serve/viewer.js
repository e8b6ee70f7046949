// A viewer of the serve bench, the same in Chromium and on libdatachannel: it meets the holder through
// the signalling server (protocol.md section 2), asks for one segment after the other and measures.

/** ms: nobody in the field waits so long, and a bench must end. */
const GIVEN_UP_AFTER = 60_000;

export class Viewer {
  /** `make`: { RTCPeerConnection, WebSocket }. `plan`: what receiver.mjs was told. */
  constructor(make, plan, number) {
    Object.assign(this, { make, plan, number, times: [], bytes: 0, lacks: 0, lost: 0, wrong: 0 });
  }

  /** Resolves with the ms from the offer to the open channel. */
  open() {
    return new Promise((resolve, reject) => {
      setTimeout(() => reject(new Error(`viewer ${this.number}: no channel in 20 s`)), 20_000);
      const socket = new this.make.WebSocket(this.plan.signal);
      const say = (message) => socket.send(JSON.stringify(message));
      let parent = null;
      let offered = 0;
      socket.onopen = () => say({ action: 'enter', channel: this.plan.channel });
      socket.onmessage = async ({ data }) => {
        const message = JSON.parse(data);
        if (message.action === 'connect' && message.initiator && parent === null) {
          parent = message.to_peer_id;
          this.connection = new this.make.RTCPeerConnection({ iceServers: [] });
          this.channel = this.connection.createDataChannel('bench');
          this.channel.binaryType = 'arraybuffer';
          this.channel.onopen = () => resolve(performance.now() - offered);
          this.channel.onmessage = (event) => this.#take(event.data);
          this.channel.onclose = () => this.#lose();
          await this.connection.setLocalDescription(await this.connection.createOffer());
          await this.#gathered();
          offered = performance.now();
          const { type, sdp } = this.connection.localDescription;
          say({ action: 'signal', to_peer_id: parent, data: { type, sdp } });
        } else if (message.action === 'signal' && message.data.type === 'answer') {
          await this.connection.setRemoteDescription(message.data);
        }
      };
      this.socket = socket;
    });
  }

  /** The offer goes out whole, for not every sender here takes candidates. */
  #gathered() {
    return new Promise((resolve) => {
      const look = () => this.connection.iceGatheringState === 'complete' && resolve();
      this.connection.onicegatheringstatechange = look;
      look();
    });
  }

  /** Asks until `seconds` have passed or `segments` have come; every `every` ms if that is not 0. */
  async run() {
    const { seconds, segments, every } = this.plan;
    const end = performance.now() + seconds * 1000;
    const begun = performance.now();
    let at = begun + Math.random() * every;
    while (this.times.length + this.lacks < segments && performance.now() < end && !this.lost) {
      if (every) await new Promise((resolve) => setTimeout(resolve, at - performance.now()));
      at += every;
      const took = await this.#ask();
      if (took !== null) this.times.push(took);
    }
    this.took = performance.now() - begun;
  }

  /** Resolves with the ms that a segment took, or with null after LACK or when it will never come. */
  #ask() {
    const { first, listed, uris } = this.plan;
    const sn = first + ((this.number + this.times.length + this.lacks) % listed);
    let tooLong;
    return new Promise((resolve) => {
      tooLong = setTimeout(() => this.#lose(), GIVEN_UP_AFTER);
      this.asked = { url: uris[sn - first], sn, begun: performance.now(), got: 0, size: null, resolve };
      this.channel.send(JSON.stringify({ event: 'REQUEST', url: this.asked.url, sn }));
    }).finally(() => clearTimeout(tooLong));
  }

  #lose() {
    if (!this.asked) return;
    this.lost = 1;
    this.asked.resolve(null);
  }

  #take(data) {
    const { asked } = this;
    if (typeof data === 'string') {
      const message = JSON.parse(data);
      if (message.event === 'BINARY' && message.url === asked.url) asked.size = message.size;
      if (message.event === 'LACK' && message.url === asked.url) {
        this.lacks += 1;
        asked.resolve(null);
      }
      return;
    }
    const { first, marks } = this.plan;
    if (asked.got === 0 && new DataView(data).getUint32(1) !== marks[asked.sn - first]) this.wrong += 1;
    asked.got += data.byteLength;
    this.bytes += data.byteLength;
    if (asked.got > asked.size) this.wrong += 1;
    if (asked.got === asked.size) asked.resolve(performance.now() - asked.begun);
  }

  /** What it saw. */
  seen() {
    const { times, bytes, lacks, lost, wrong, took } = this;
    return { times, bytes, lacks, lost, wrong, took };
  }
}
