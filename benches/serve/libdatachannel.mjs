// libdatachannel as the holder, for the serve bench: answers each REQUEST with the segment, 1 MiB of it
// in the library's buffer at a time, in messages of 60 KiB.
//
//   node libdatachannel.mjs '{"signal":"ws://…","channel":"…","size":2400000,"first":91,"marks":[…]}'

import nodeDataChannel from 'node-datachannel';
import { WebSocket } from 'ws';

const MESSAGE = 60 * 1024;
const BUFFERED = 1024 * 1024;
const { signal, channel, size, first, marks } = JSON.parse(process.argv[2]);
/** As the bench's origin has them, as far as viewers look. */
const segments = new Map(marks.map((mark, index) => {
  const bytes = Buffer.alloc(size, 0x47);
  bytes.writeUInt32BE(mark, 1);
  return [first + index, bytes];
}));
const connections = new Map();

const socket = new WebSocket(signal);
socket.onopen = () => socket.send(JSON.stringify({ action: 'enter', channel }));
socket.onmessage = ({ data }) => {
  const message = JSON.parse(data);
  if (message.action === 'accept') console.log('entered');
  if (message.action === 'signal' && message.data.type === 'offer') answer(message.from_peer_id, message.data.sdp);
};

function answer(peer, offer) {
  const connection = new nodeDataChannel.PeerConnection(String(peer), { iceServers: [], bindAddress: '127.0.0.1' });
  connections.set(peer, connection);
  connection.onDataChannel((opened) => serve(opened));
  connection.onGatheringStateChange((state) => {
    if (state !== 'complete') return;
    const { type, sdp } = connection.localDescription();
    socket.send(JSON.stringify({ action: 'signal', to_peer_id: peer, data: { type, sdp } }));
  });
  connection.setRemoteDescription(offer, 'offer');
}

function serve(opened) {
  let sending = null;
  opened.setBufferedAmountLowThreshold(BUFFERED / 2);
  const send = () => {
    while (sending && opened.bufferedAmount() < BUFFERED) {
      const end = Math.min(sending.at + MESSAGE, size);
      opened.sendMessageBinary(sending.bytes.subarray(sending.at, end));
      sending.at = end;
      if (end === size) sending = null;
    }
  };
  opened.onBufferedAmountLow(send);
  opened.onMessage((text) => {
    const { event, url, sn } = JSON.parse(text);
    if (event !== 'REQUEST') return;
    opened.sendMessage(JSON.stringify({ event: 'BINARY', url, sn, size, attachments: Math.ceil(size / MESSAGE) }));
    sending = { at: 0, bytes: segments.get(sn) };
    send();
  });
}
