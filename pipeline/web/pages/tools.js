/* What the scripts of the pages share. A page's own script comes after it. */
"use strict";
const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const PATIENCE_MS = 15000, RETRY_MS = 3000;
/* The account of the reader: its role, and whether it sees all sources. */
const own = document.documentElement.dataset;
const may_judge = own.role !== "viewer", may_operate = may_judge && own.role !== "reviewer", may_configure = may_operate && own.sees !== "some";
function make(name, text, kind) {
  const it = document.createElement(name);
  if (text != null) it.textContent = text;
  if (kind) it.className = kind;
  return it;
}
function draw(name, facts, kind) {
  const it = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(facts)) it.setAttribute(key, value);
  if (kind) it.setAttribute("class", kind);
  return it;
}
const clock = s => new Date(s * 1000).toLocaleTimeString("en-GB");
const day = s => new Date(s * 1000).toLocaleDateString("en-GB", { weekday: "short", day: "numeric", month: "short", year: "numeric" });
function lasting(s) {
  if (s < 99.95) return s.toFixed(1) + " s";
  s = Math.round(s);
  const two = n => String(n).padStart(2, "0");
  return s < 3600 ? Math.floor(s / 60) + ":" + two(s % 60) + " min" : Math.floor(s / 3600) + ":" + two(Math.floor(s / 60) % 60) + " h";
}
/* Ask the server: words are the query, body is posted as JSON. Throws an Error with the status of the answer. */
async function ask(path, words, body, patience_ms = PATIENCE_MS) {
  const said = new URLSearchParams(Object.entries(words || {}).filter(([, value]) => value !== "" && value != null));
  const how = body ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) } : {};
  const answer = await fetch(path + (String(said) ? "?" + said : ""), { ...how, signal: AbortSignal.timeout(patience_ms) });
  if (answer.status === 401) to_login();
  const told = await answer.json().catch(() => ({ error: answer.statusText }));
  if (!answer.ok) throw Object.assign(new Error(told.error), { status: answer.status });
  return told;
}
/* The login has ended: log in again, and return to this page. */
function to_login() {
  location.replace("login?next=" + encodeURIComponent(location.pathname.split("/").pop()) + location.hash);
}
/* Do work on all items, AT_ONCE of them at the same time. A browser has six connections to a server: a request that
   waits for one would use up its patience. */
const AT_ONCE = 4;
async function each_of(items, work) {
  const list = [...items], results = Array(list.length);
  let next = 0;
  const one_by_one = async () => { while (next < list.length) { const n = next++; results[n] = await work(list[n]); } };
  await Promise.all(Array.from({ length: AT_ONCE }, one_by_one));
  return results;
}
/* Copy the text of an element. Browsers have a clipboard only on secure pages; elsewhere the text is selected. */
async function copy_text(it, button) {
  const text = button.textContent;
  try {
    await navigator.clipboard.writeText(it.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(it);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
  }
  setTimeout(() => { button.textContent = text; }, 1500);
}
const NOT_RECORDED = {
  disk_full: "the disk was full", disk_error: "the disk failed", index_error: "the index of recordings failed", slow_disk: "the disk was too slow",
  bad_packet: "a packet that MP4 cannot contain", no_picture: "no picture arrived",
};
const NOT_WATCHED = {
  closed: "the connection was closed", damaged: "its stream was damaged", died: "its decoder died", ended: "it ended, was removed, or its run was stopped",
  missing: "the camera has no such stream", no_memory: "the host had no memory for it", no_run: "its run was killed, or its host was away",
  no_video_stream: "its stream has no video", not_video: "its stream is no video", permission: "the camera refused the login",
  sizes: "its picture size changed too often", stalled: "no frames arrived", time_jump: "its time stamps jumped",
  unreachable: "no connection to the camera", unsupported_codec: "its codec is not supported",
};
/* The reason of a time that was not watched or not recorded, in words; empty: it is not known. */
const why_of = time => ((time.kind === "not_watched" ? NOT_WATCHED : NOT_RECORDED)[time.why] || time.why || "") + (time.detail ? " (" + time.detail + ")" : "");
const REMOVED_BY = { age: "[record] days", bytes: "[record] bytes", space: "[record] free_bytes" };
const date_of = s => { const d = new Date(s * 1000), two = n => String(n).padStart(2, "0"); return d.getFullYear() + "-" + two(d.getMonth() + 1) + "-" + two(d.getDate()); };
/* The recordings of each source, on all hosts of a fleet; none if nothing is recorded, it may not be seen, or its host
   is away. */
const NONE = [403, 404, 502, 503, 504];
const or_none = error => { if (NONE.includes(error.status)) return null; throw error; };
async function recordings(from, to, sources) {
  const here = (await ask("api/v1/recordings").catch(or_none) || []).map(each => each.source);
  const has_fleet = (await sources).some(each => each.slot);
  const places = has_fleet ? await ask("api/v1/fleet/recordings").catch(() => []) : [];
  const there = places.filter(each => each.since <= to && each.until >= from).map(each => each.source);
  const known = await each_of(new Set([...here, ...there]), async name => [name, await ask("api/v1/recordings/" + encodeURIComponent(name), { from, to }).catch(or_none)]);
  return new Map(known.filter(([, times]) => times));
}
