/* Plays recordings in a <video> by Media Source Extensions. Its time is the time since `base`, so a
   gap of the recording is a gap in the buffer, and the player jumps over it. */
const AHEAD_S = 20, BEHIND_S = 60, LIST_S = 600, JOINT_S = 0.5; /* AHEAD_S grows with the speed */
const SourceKind = self.ManagedMediaSource || self.MediaSource; /* iPhones have only the first */
/* Wait for an event, or fail at the event `wrong`. No listener stays: a buffer lives as long as the page. */
function happens(target, name, wrong) {
  const over = new AbortController(), how = { signal: over.signal };
  return new Promise((done, fail) => {
    target.addEventListener(name, done, how);
    if (wrong) target.addEventListener(wrong, () => fail(new Error("This browser cannot decode the recording.")), how);
  }).finally(() => over.abort());
}
/* Get a part of a recording. gone: the message if it is not there any more. */
async function get_part(url, gone) {
  const answer = await fetch(url, { signal: AbortSignal.timeout(PATIENCE_MS) });
  if (answer.status === 401) to_login();
  if (answer.ok) return answer;
  if (answer.status === 404) throw new Error(gone);
  const told = await answer.json().catch(() => ({}));
  throw new Error("The recording cannot be read: " + (told.error || answer.status));
}

/* Boxes of an MP4 (ISO 14496-12). */
function* boxes(data, from = 0, to = data.byteLength) {
  while (from + 8 <= to) {
    let size = data.getUint32(from), head = 8;
    if (size === 1) { size = Number(data.getBigUint64(from + 8)); head = 16; }
    if (size === 0) size = to - from;
    if (size < head) return;
    yield { kind: kind_at(data, from + 4), at: from, from: from + head, to: Math.min(to, from + size) };
    from += size;
  }
}
const kind_at = (data, at) => String.fromCharCode(...[0, 1, 2, 3].map(n => data.getUint8(at + n)));
function inside(data, box, ...path) {
  for (const kind of path) box = box && [...boxes(data, box.from, box.to)].find(each => each.kind === kind);
  return box;
}
const all = (data, box, kind) => box ? [...boxes(data, box.from, box.to)].filter(each => each.kind === kind) : [];
const hex = n => n.toString(16).padStart(2, "0");

/* The codec of a track as RFC 6381 writes it; null if no browser plays it. */
function codec_of(data, track) {
  const table = inside(data, track, "mdia", "minf", "stbl", "stsd");
  const [entry] = table ? boxes(data, table.from + 8, table.to) : [];
  if (!entry) return null;
  const kind = entry.kind, parts = { from: entry.from + 78, to: entry.to };
  const avc = kind.startsWith("avc") && inside(data, parts, "avcC"), hevc = /^h(vc|ev)1$/.test(kind) && inside(data, parts, "hvcC");
  const byte = (box, n) => data.getUint8(box.from + n);
  if (avc) return kind + "." + [1, 2, 3].map(n => hex(byte(avc, n))).join("");
  if (hevc) {
    const first = byte(hevc, 1);
    let flags = 0;
    for (let n = 0; n < 32; n++) flags = flags << 1 | data.getUint32(hevc.from + 2) >>> n & 1;
    const limits = [6, 7, 8, 9, 10, 11].map(n => byte(hevc, n));
    while (limits.length && !limits.at(-1)) limits.pop();
    return [kind, ["", "A", "B", "C"][first >> 6] + (first & 31), (flags >>> 0).toString(16), (first & 32 ? "H" : "L") + byte(hevc, 12), ...limits.map(n => n.toString(16))].join(".");
  }
  return { mp4a: "mp4a.40.2", Opus: "opus", av01: "av01.0.08M.08", vp09: "vp09.00.50.08" }[kind] || null;
}

/* Read an init part: the type for the browser, and the tracks that it cannot play. They are hidden. */
function read_init(bytes) {
  const data = new DataView(bytes), whole = { from: 0, to: bytes.byteLength }, film = inside(data, whole, "moov");
  const codecs = [], hidden = new Set();
  for (const track of all(data, film, "trak")) {
    const codec = codec_of(data, track);
    if (codec && SourceKind.isTypeSupported('video/mp4; codecs="' + codec + '"')) { codecs.push(codec); continue; }
    const handler = inside(data, track, "mdia", "hdlr");
    if (handler && kind_at(data, handler.from + 8) === "vide") throw new Error("This browser does not play " + (codec || "the codec of this camera") + ". The export works, and other players may play it.");
    const head = inside(data, track, "tkhd");
    hidden.add(data.getUint32(head.from + (data.getUint8(head.from) ? 20 : 12)));
    hide(data, track);
  }
  for (const each of all(data, inside(data, film, "mvex"), "trex")) if (hidden.has(data.getUint32(each.from + 4))) hide(data, each);
  return { bytes, hidden, type: 'video/mp4; codecs="' + codecs.join(", ") + '"' };
}
function hide(data, box) { for (let n = 0; n < 4; n++) data.setUint8(box.at + 4 + n, "free".charCodeAt(n)); }
function hide_tracks(bytes, hidden) {
  if (!hidden.size) return;
  const data = new DataView(bytes);
  for (const part of all(data, { from: 0, to: bytes.byteLength }, "moof"))
    for (const track of all(data, part, "traf")) if (hidden.has(data.getUint32(inside(data, track, "tfhd").from + 4))) hide(data, track);
}

/* The segments of a playlist, each with its time, UNIX seconds. */
function segments_of(text, folder) {
  const segments = [];
  let at = 0, length = 0, init = "", joins = false;
  for (const line of text.split("\n")) {
    const [, name, value] = /^#([A-Z-]+):(.*)$/.exec(line) || [];
    if (name === "EXT-X-PROGRAM-DATE-TIME") { at = Date.parse(value) / 1000; joins = false; }
    else if (name === "EXT-X-MAP") init = /URI="(.*)"/.exec(value)[1];
    else if (name === "EXTINF") length = parseFloat(value);
    else if (line && line[0] !== "#") { segments.push({ at, until: at + length, joins, init: folder + init, url: folder + line }); at += length; joins = true; }
  }
  return segments;
}

class Player {
  /* say(words): shows a message, "" removes it. stretches(): recorded times of the source. */
  constructor(video, say, stretches) {
    Object.assign(this, { video, say, stretches, source: null, base: 0, media: null, turn: 0, wanted: null });
    video.disableRemotePlayback = true;
    for (const name of ["timeupdate", "waiting", "seeking", "ratechange"]) video.addEventListener(name, () => this.fill());
  }
  get at() { return this.wanted ?? this.base + this.video.currentTime; }

  /* Show the picture at a time. base, until: the times between which it can be sought. */
  async open(source, at, base, until) {
    if (!SourceKind) return this.say("This browser plays no recordings here. The export works.");
    this.wanted = at;
    if (source !== this.source || base !== this.base || this.failed) {
      const mine = ++this.turn, media = new SourceKind();
      Object.assign(this, { source, base, media, buffer: null, init: null, list: [], last: null, filling: false, failed: false, inits: new Map() });
      if (this.url) URL.revokeObjectURL(this.url);
      this.video.src = this.url = URL.createObjectURL(media);
      await happens(media, "sourceopen");
      if (mine !== this.turn) return;
      media.duration = until - base;
    }
    if (this.wanted != null) this.video.currentTime = this.wanted - base;
    this.wanted = null;
    this.say("");
    this.fill();
  }

  buffered_until(at) {
    const ranges = this.video.buffered;
    for (let n = 0; n < ranges.length; n++) if (ranges.start(n) <= at + 0.1 && at < ranges.end(n) - 0.02) return ranges.end(n);
    return null;
  }

  /* Append what is played next, one segment after the other. */
  async fill() {
    if (this.filling || this.failed || !this.media || this.media.readyState !== "open") return;
    this.filling = true;
    const mine = this.turn;
    try {
      for (let put = ""; mine === this.turn;) {
        const now = this.video.currentTime, end = this.buffered_until(now);
        if (end != null && end - now >= AHEAD_S * Math.max(1, this.video.playbackRate)) break;
        const goes_on = end != null && this.last && Math.abs(this.base + end - this.last.until) < JOINT_S;
        let segment = await this.find(goes_on ? this.last : null, this.base + (end ?? now));
        if (segment && segment.url === put && end == null) segment = await this.find(segment, 0); /* its pictures end before `now` */
        if (mine !== this.turn) return;
        const is_near = end == null || end - this.video.currentTime < 0.3 * Math.max(1, this.video.playbackRate);
        if (!segment) { if (is_near) this.over(); break; }
        if (segment.at > this.base + (end ?? now) + JOINT_S) {
          if (!is_near) break;
          this.video.currentTime = segment.at - this.base + 0.02; /* over a gap */
        }
        await this.append(segment, goes_on, mine);
        put = segment.url;
      }
    } catch (error) {
      if (mine !== this.turn) return;
      this.failed = true;
      this.say(error.message);
    } finally {
      if (mine === this.turn) this.filling = false;
    }
  }
  over() { this.video.pause(); this.say("Nothing later is recorded on this day."); }

  /* The segment after `last`, or the first one with a picture of `at` or later; null: there is none. */
  async find(last, at) {
    const fits = segment => last ? segment.at > last.at : segment.until > at + 0.05;
    const known = last ? this.list[this.list.findIndex(each => each.url === last.url) + 1] : this.list.find(each => each.at <= at + 0.05 && fits(each));
    if (known && (!last || this.list.some(each => each.url === last.url))) return known;
    const stretch = this.stretches(this.source).find(each => each.until > (last ? last.until : at) + 0.05);
    if (!stretch) return null;
    const from = Math.max(stretch.since, last ? last.until : at), folder = "api/v1/recordings/" + encodeURIComponent(this.source) + "/";
    const answer = await get_part(folder + "playlist.m3u8?" + new URLSearchParams({ from, to: from + LIST_S }), "This time is not recorded any more.");
    this.list = segments_of(await answer.text(), folder);
    return this.list.find(fits) || null;
  }

  async append(segment, goes_on, mine) {
    const whole = async url => (await get_part(url, "The recording of this time was removed just now.")).arrayBuffer();
    if (!this.inits.has(segment.init)) this.inits.set(segment.init, read_init(await whole(segment.init)));
    const init = this.inits.get(segment.init), bytes = await whole(segment.url);
    if (mine !== this.turn) return;
    hide_tracks(bytes, init.hidden);
    if (!this.buffer) {
      this.buffer = this.media.addSourceBuffer(init.type);
      this.buffer.mode = "sequence";
    }
    if (this.init !== init) {
      if (this.init && this.init.type !== init.type) this.buffer.changeType(init.type);
      await this.put(init.bytes);
      this.init = init;
    }
    if (!(goes_on && segment.joins)) this.buffer.timestampOffset = segment.at - this.base;
    await this.put(bytes);
    this.last = segment;
    const old = this.video.currentTime - BEHIND_S, ranges = this.video.buffered;
    if (ranges.length && ranges.start(0) < old) await this.remove(0, old);
  }
  async put(bytes) {
    for (let tries = 0; ; tries++) {
      try {
        this.buffer.appendBuffer(bytes);
        return await happens(this.buffer, "updateend", "error");
      } catch (error) {
        if (error.name !== "QuotaExceededError" || tries) throw error;
        await this.remove(0, Math.max(0.1, this.video.currentTime - 2));
      }
    }
  }
  async remove(from, to) {
    this.buffer.remove(from, to);
    await happens(this.buffer, "updateend");
  }
}
