// One box, or other parent: a peer connection with one data channel, opened from this side, for
// the initiator is the one who receives (protocol.md section 3).

import { SegmentChannel } from './segment-channel.js';

// On a LAN it takes well under a second; a box that is started by a tiny card may take a few.
const OPEN_WITHIN_MS = 10_000;

export class Peer {
  /** `handlers`: send(data) to the other end by signalling, onOpen(), onClose(reason) once. */
  constructor(ownId, remoteId, handlers) {
    this.ownId = ownId;
    this.remoteId = remoteId;
    this.handlers = handlers;
    this.opened = false;
    // No STUN: the box is in this LAN.
    this.pc = new RTCPeerConnection({ iceServers: [] });
    this.early = [];
    const dc = this.pc.createDataChannel(randomLabel(), { ordered: true });
    this.channel = new SegmentChannel(dc, (reason) => this.#ended(reason));
    dc.onopen = () => {
      clearTimeout(this.openTimer);
      this.opened = true;
      handlers.onOpen();
    };
    this.pc.onicecandidate = ({ candidate }) => {
      if (!candidate?.candidate) return;
      const { candidate: line, sdpMLineIndex, sdpMid } = candidate;
      handlers.send({ candidate: { candidate: line, sdpMLineIndex, sdpMid } });
    };
    this.pc.onconnectionstatechange = () => {
      if (this.pc.connectionState === 'failed') this.channel.close();
    };
    this.openTimer = setTimeout(() => this.channel.close(), OPEN_WITHIN_MS);
  }

  async offer() {
    await this.pc.setLocalDescription(await this.pc.createOffer());
    const { type, sdp } = this.pc.localDescription;
    this.handlers.send({ type, sdp });
  }

  /** What came from the other end: an answer or a candidate. */
  async signal(data) {
    try {
      if (data.type === 'answer') {
        await this.pc.setRemoteDescription(data);
        for (const candidate of this.early.splice(0)) await this.pc.addIceCandidate(candidate);
      } else if (data.candidate) {
        // Some send the candidate's line alone.
        const candidate =
          typeof data.candidate === 'string' ? { sdpMid: '0', sdpMLineIndex: 0, ...data } : data.candidate;
        if (this.pc.remoteDescription) await this.pc.addIceCandidate(candidate);
        else if (this.early.length < 32) this.early.push(candidate);
      }
    } catch (error) {
      // A candidate that cannot be read costs only itself; without an answer the timer ends it.
      console.warn(`signal from ${this.remoteId}: ${error.message}`);
    }
  }

  close() {
    this.channel.close();
  }

  #ended(reason) {
    clearTimeout(this.openTimer);
    this.pc.onicecandidate = this.pc.onconnectionstatechange = null;
    this.pc.close();
    this.handlers.onClose(reason);
  }
}

/** 40 hexadecimal characters, as field clients name their channels. */
function randomLabel() {
  const bytes = crypto.getRandomValues(new Uint8Array(20));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
