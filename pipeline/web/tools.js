/* What the scripts of the pages share. A page's own script comes after it. */
"use strict";
const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const PATIENCE_MS = 8000;
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
async function ask(path, words) {
  const said = new URLSearchParams(Object.entries(words || {}).filter(([, value]) => value !== "" && value != null));
  const answer = await fetch(path + (String(said) ? "?" + said : ""), { signal: AbortSignal.timeout(PATIENCE_MS) });
  const told = await answer.json().catch(() => ({ error: answer.statusText }));
  if (!answer.ok) throw Object.assign(new Error(told.error), { status: answer.status });
  return told;
}
const NOT_RECORDED = {
  disk_full: "the disk was full", disk_error: "the disk failed", index_error: "the index of recordings failed", slow_disk: "the disk was too slow",
  bad_packet: "a packet that MP4 cannot contain", no_picture: "no picture arrived",
};
const REMOVED_BY = { age: "[record] days", bytes: "[record] bytes", space: "[record] free_bytes" };
const date_of = s => { const d = new Date(s * 1000), two = n => String(n).padStart(2, "0"); return d.getFullYear() + "-" + two(d.getMonth() + 1) + "-" + two(d.getDate()); };
/* The recordings of each source, on all hosts of a fleet; none if nothing is recorded, or its host is away. */
async function recordings(from, to, sources) {
  const here = (await ask("api/v1/recordings").catch(() => [])).map(each => each.source);
  const has_fleet = (await sources).some(each => each.slot);
  const places = has_fleet ? await ask("api/v1/fleet/recordings").catch(() => []) : [];
  const there = places.filter(each => each.since <= to && each.until >= from).map(each => each.source);
  const known = await Promise.all([...new Set([...here, ...there])].map(async name => [name, await ask("api/v1/recordings/" + encodeURIComponent(name), { from, to }).catch(() => null)]));
  return new Map(known.filter(([, times]) => times));
}
