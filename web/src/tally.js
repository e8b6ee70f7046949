// What came from where.

// Segments on the strip: more than a minute of segments of 2 s.
export const RECENT = 40;

export class Tally {
  p2p = 0;
  http = 0;
  p2pBytes = 0;
  httpBytes = 0;
  failed = 0;
  /** HTTP segments by the reason why the box did not bring them. */
  reasons = {};
  recent = [];

  /** Takes what the loader reports (`onSegment` of createLoader). */
  add(segment) {
    const { source, reason, bytes, ok } = segment;
    if (!ok) {
      this.failed += 1;
    } else if (source === 'p2p') {
      this.p2p += 1;
      this.p2pBytes += bytes;
    } else {
      this.http += 1;
      this.httpBytes += bytes;
      this.reasons[reason] = (this.reasons[reason] ?? 0) + 1;
    }
    this.recent.push(segment);
    if (this.recent.length > RECENT) this.recent.shift();
  }

  get segments() {
    return this.p2p + this.http;
  }

  /** Percent of the segments that came from the box; null before the first one. */
  get share() {
    return this.segments === 0 ? null : (100 * this.p2p) / this.segments;
  }
}

/** Bytes as a person reads them: "812 kB", "12.3 MB". */
export function bytesText(bytes) {
  if (bytes < 1e6) return `${Math.round(bytes / 1e3)} kB`;
  if (bytes < 1e9) return `${(bytes / 1e6).toFixed(1)} MB`;
  return `${(bytes / 1e9).toFixed(2)} GB`;
}
