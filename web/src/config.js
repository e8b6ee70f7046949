// What the box says about itself (`/watch/config.json`), turned into what this page connects to.

/** The channel that `?channel=NAME` asks for, otherwise the first one; undefined if there is none. */
export function pickChannel(config, search) {
  const channels = config.channels ?? [];
  const wanted = new URLSearchParams(search).get('channel');
  return channels.find((channel) => channel.name === wanted) ?? channels[0];
}

/**
 * Where the signalling server is. `signal_port` means this same host, by whatever name the viewer
 * reached it, `signal_tls_port` the same with TLS; `signal` is an absolute ws:// or wss:// URL or a path of this host. Null if the
 * configuration names neither: the page then plays over plain HTTP.
 */
export function signalUrl(config, location) {
  const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
  if (config.signal_tls_port) return `wss://${location.hostname}:${config.signal_tls_port}/`;
  if (config.signal_port) {
    return `${scheme}//${location.hostname}:${config.signal_port}/`;
  }
  if (!config.signal) return null;
  const url = new URL(config.signal, location.href);
  if (url.protocol === 'http:' || url.protocol === 'https:') url.protocol = scheme;
  return url.href;
}
