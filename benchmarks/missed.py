"""`benchmarks/MISSED.md`: each target that a kept result misses, with its reason.

A missed target without a reason is an error: whoever keeps the result writes the reason here, and
its commit into EXPLAINED. A benchmark can have several results (`live-own`). What was not measured
is listed below the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.all import NAMES, declared, kept
from benchmarks.figure_tables import number
from benchmarks.harness.report import RESULTS, Bar, BenchmarkResult


class Reason(NamedTuple):
    """Why a target is missed: what was measured, and what would reach it."""

    measured: str
    remedy: str


class NoReason(Exception):
    """A kept result misses a target that has no reason in REASONS."""


class Missed(NamedTuple):
    """A target that a kept result misses. benchmark: name of the result"""

    benchmark: str
    bar: Bar

    @property
    def reason(self) -> Reason:
        """Return the first reason that fits. NoReason where there is none."""
        for (name, beginning), reason in REASONS.items():
            if name == self.benchmark and self.bar.what.startswith(beginning):
                return reason
        raise NoReason(
            f"{self.benchmark} misses '{self.bar.what}'; add its reason to REASONS in "
            "benchmarks/missed.py"
        )


_PEOPLE = Reason(
    "no least score reaches both precision and recall: the nearest, .40, has .844 and .831 "
    "(`curve` in the result)",
    "a larger detector, or one trained for this camera",
)
_COLD = Reason(
    "at the rate of a camera, caches are cold: decoding and detection alone take 1.0 to 1.3 times "
    "as long as without pauses. This is a part only: the run takes 1.4 to 2.3 times that again, "
    "for gate, engine and store",
    "fewer wake-ups and store commands per frame",
)
_PEER_P99 = Reason(
    "1 % of the frames take 38 ms, twice the time of a look (18 ms): a look at parts that leaves "
    "doubt is followed by one at the whole; how many of these frames had both is not counted. The "
    "median is lower than theirs (3.8 against 24.7 ms; at 1080p 4.7 against 26.6 ms)",
    "next: the looks of these frames (`[telemetry] trace_ratio = 1`)",
)

_MONTH = (
    "the median is 105 ms: half is counting the month's episodes (75,000), a third compares the "
    "spans in which a rule's state was unknown with those in which its source was watched, for "
    "each of 160 pairs of a source and a rule (in parts, beside the result: 54, 39 and 14 ms)"
)
_COUNTS_BY_DAY = "counts of episodes and of unknown times per day, made as episodes are stored"

# By benchmark and the first words of the target.
REASONS: dict[tuple[str, str], Reason] = {
    ("alike", "mean AP at five marks"): Reason(
        "the numbers of a visit hardly separate lanes that are close in perspective (.33 for the "
        "inner one, of three visits), and light grey outdoors counts as white (.63 for white "
        "vehicles); a question has 3 to 10 true visits",
        "more marks; numbers of the way in metres, for cameras with an area in metres",
    ),
    ("alike", "mean AP above the best rival"): Reason(
        "in the worst of five draws a logistic regression on frozen features of the pictures is "
        "ahead by .03; in the mean, ours (.70) is ahead of it by .02 and of a nearest neighbour on "
        "the path by .04. For the inner lane it has .84, ours .33",
        "the features of the pictures beside the numbers, which are computed for each visit anyway",
    ),
    ("alike", "precision of the first ten at five marks"): Reason(
        "a question has 3 to 10 true visits among 16 to 22; for the inner lane a third of the "
        "first three are right",
        "more marks; words where they can ask (.58)",
    ),
    ("alike", "precision of the first ten by words"): Reason(
        "light grey outdoors counts as white: of the visits of this highway that are named white "
        "and come towards the camera, a third are (.33)",
        "the share of a colour against that of other visits of the same camera",
    ),
    ("batching", "p99"): Reason(
        "a detection that runs is not interrupted, so a source that asks meanwhile waits for it: "
        "twice the time is the minimum. With batches of one it is 2.1 times, with batches of four, "
        "which answer 3 % more questions a second here, 3.2 times",
        "batches of one on processors; a second network instance, for twice the memory",
    ),
    ("boxes", "precision of people"): _PEOPLE,
    ("boxes", "recall of people"): _PEOPLE,
    ("detectors", "nanodet-plus-416: mAP"): Reason(
        "with 8 bits .362 on 64 photographs (95 % of such draws are .10 wide), in single precision "
        ".380 for 1.49 times the time. A processor with bfloat16 had .368 with 8 bits alone, and "
        ".382 with bfloat16 in the other layers, so the difference is within the noise of the set",
        "more photographs for this bar; single precision where time allows it",
    ),
    ("drift", "false alarms"): Reason(
        "both in one of two controls, after the threshold of doubt had risen to .4: 27 and 29 % of "
        "the frames served then did differ from the heavy model, so the alarms were right and the "
        "rise was not",
        "a smaller step when the threshold rises",
    ),
    ("end_to_end", "768x432: p99"): _PEER_P99,
    ("end_to_end", "1080p: p99"): _PEER_P99,
    ("events", "count error"): Reason(
        "6 of 55 crossings of PETS 2009 are wrong, one at each of six lines (the rival: 18, from "
        "the same tracks), and .26 of the composed ones (.50)",
        "next: the tracks at these lines; a detector that finds more of the composed objects",
    ),
    ("events", "F1 of stays"): Reason(
        "an episode counts as right only if it begins within half a second of the label; the "
        "result does not separate late first boxes from tracks that broke",
        "next: a result that separates the two causes",
    ),
    ("events", "gate on and off"): Reason(
        "one-by-one-person-detection has .85 and PETS 2009 .95 (car-detection: .99); "
        "episodes that begin more than half a second apart count as different",
        "more detections per second (`[gate]`), for more CPU",
    ),
    ("events", "CPU-ms"): Reason(
        "twelve rules judge every track one by one, in Python; of the clips, PETS 2009 has most "
        "people in view at once, the other two take .08 and .07 ms; earlier code took .19, .04 and "
        ".03 ms on another machine with the same name of processor",
        "crossings of all lines in one array operation",
    ),
    ("events_rules", "CPU-ms"): Reason(
        "twelve rules judge every track one by one, in Python",
        "crossings of all lines in one array operation",
    ),
    ("federated", "AP above own verdicts alone"): Reason(
        "without privacy, the verdicts of the other cameras gain .009 and .001 over the own ones, "
        "and all verdicts of a camera itself gain .015 at most over the score, on two of five "
        "cameras: the features have little that the score does not have; the noise for privacy "
        "(epsilon 4) takes .02",
        "next: features that order the episodes of one camera better than the score; nothing of "
        "this is offered",
    ),
    ("first_contact", "save an annotated video: seconds"): Reason(
        "a store and workers start, and precisions are compared, before the first frame of a clip "
        "of 10 s",
        "a longer clip: this cost is paid once, and comparing precisions once per machine",
    ),
    ("fleet", "process killed"): Reason(
        "a slot is restarted after 2 s, as by its systemd unit, starts in 6 to 8 s on two cores, "
        "and has a first result 1.1 to 1.5 s after it has claimed a source",
        "a shorter start of a run",
    ),
    ("fleet", "planned move"): Reason(
        "a slot looks at the plan once a second and finishes its decoded frames in .1 to 1 s; the "
        "next slot has a first result 1.1 to 1.5 s after its claim",
        "a blocking read of the plan in place of a look each second",
    ),
    ("floor", "quiet, 432"): _COLD,
    ("floor", "quiet, 1080"): _COLD,
    ("floor", "busy, 432"): _COLD,
    ("floor", "one quiet camera: CPU-ms that --json"): Reason(
        "the difference of two runs of 300 frames; a run of the same hour had .20, so one run does "
        "not decide it",
        "next: a longer measurement (`--idle 300`)",
    ),
    ("floor", "one quiet camera"): _COLD,
    ("floor", "a further one"): Reason(
        "the mean of three further cameras in a shard; what they allocate is not divided further",
        "next: what allocates them (`memray`, with native frames)",
    ),
    ("floor", "one camera of 360 rows: memory"): Reason(
        "in such a run with 277 MB, the shard has 238: 181 are allocated (networks and their "
        "buffers among them), 15 are frames, and the rest is mostly code of libraries; the "
        "supervisor has 35, the store 4",
        "next: what allocates the 181 MB (`memray`, with native frames)",
    ),
    ("floor", "one of bottles"): Reason(
        "of 6.80 ms, 2.73 are decoding and detection at that rate; the rest is gate, engine and "
        "store, with 3 context switches and 23 store commands per frame",
        "fewer store commands per frame",
    ),
    ("gate", "gate at"): Reason(
        "the time grows with the changed area: .25 ms where nothing changes, .37 to .41 ms on "
        "quiet clips, up to .67 ms on busy ones",
        "fewer passes over the cells that changed",
    ),
    ("gate", "pets2001-campus"): Reason(
        "5 of 29 tracks are missed; results of this clip are unstable by themselves: noise of two "
        "grey levels alone lowers F1 to .957, the gate lowers it to .926, and so do evenly spaced "
        "looks that take as long",
        "more detections per second (`[gate]`), for more CPU",
    ),
    ("learn", "tuned: F1 over 416 at .31, mean"): Reason(
        "one clip was given an input of 320 pixels and is refused; with 416 the mean would be .106",
        "choosing the input size by a trial instead of by the size of objects",
    ),
    ("learn", "tuned: F1 over 416 at .31, worst"): Reason(
        "30 objects judge this clip, which are too few; the model is refused, so it is not served",
        "more footage of the camera",
    ),
    ("learn", "accurate: F1 over 416 tuned, crowded"): Reason(
        "pets2001 gains .066, pets09 .021; cctv-highway-overlay is below the tuned detector",
        "next: more footage of the third clip, and more than one seed",
    ),
    ("learn", "accurate: F1 over 416 tuned, lower end"): Reason(
        "one network of one seed on cctv-highway-overlay, which is below the tuned detector",
        "next: more footage of this clip, and more than one seed",
    ),
    ("link", "JPEG: points"): Reason(
        "118 boxes of 100 frames, which change by themselves: noise of one grey level loses more "
        "(7.0 points) than JPEG (6.4). This is agreement with the answers to raw pictures",
        "next: F1 by labels of both",
    ),
    ("live", "busy cameras of 360"): Reason(
        "16 cameras of a busy scene take 1.53 cores and their server .09 on the same machine, so "
        "24 need 2.4 of the 2 cores; with 17, p99 is 317 ms, with 18 it is 731 ms",
        "a smaller input (nanodet-plus-320 takes .66 of the time), or the cameras' server on "
        "another machine",
    ),
    ("live", "quiet cameras of"): Reason(
        "a frame of a quiet camera takes 8 CPU-ms with 432 rows and 13 with 1080 (`floor`, RTSP), "
        "so 40 and 20 cameras need 3.2 and 2.6 of the 2 cores; a whole look takes 22 ms on this "
        "processor, which has no VNNI, and took 4.3 ms on one with it",
        "a processor with VNNI or AMX; lazy decoding where little happens",
    ),
    ("overhead", "file_4"): Reason(
        "each source has its own transaction, so the share of the store stays at .23 of the CPU "
        "with four sources (.25 with one); the five rounds are between .58 and 1.0",
        "one transaction for several sources, which the hash slots of Redis Cluster forbid",
    ),
    ("overhead", "live"): Reason(
        "at the rate of cameras the cost is waking processes: each frame wakes a shard (.73 of the "
        "CPU) and the store (.26). In turns on this machine (two rounds, beside the result), the "
        "engine of 27 November (8fed3416) takes 1.26 and 1.58 ms, that of now 1.20 and 1.49; the "
        "queues .61 and .66 with the five stages of then, .48 and .51 with the four of now, so the "
        "ratio rose from 2.2 to 2.7. "
        "On another machine with the same name of processor it was 1.58",
        "gathering frames: 25 ms of delay would save 7 %",
    ),
    ("recording", "recording all cameras"): Reason(
        "577 packets of eight cameras a second take .11 ms each. On another machine with the same "
        "name of processor, code of 27 November (57766168) had .028 of a core; on this one, in "
        "turns, it has .054, and the code of now .065",
        "next: how these .11 ms divide among reading, muxing, writing and the index",
    ),
    ("policy", "asked"): Reason(
        "two of three hours ask about .23; in the third an alarm rings after a quarter, and then "
        "each frame is asked about (.81). Nearly every frame in which something moves must be "
        "asked about: in the hour that chooses, bolder settings ring the alarm",
        "LinUCB, which asks about .35 and rings no alarm here, on more hours; a heavy model that "
        "keeps its counts from frame to frame",
    ),
    ("policy", "certified hours"): Reason(
        "the setting that asks least in the hour that chooses (.03, certified with a chance of "
        ".97) is too bold for one of three other hours. LinUCB is certified in all three, the "
        "fixed doubt in two, and asks about .44",
        "a setting with a margin: .01 asks 2.9 points more in the hour that chooses, and has 1.00",
    ),
    ("promise", "asked"): Reason(
        "the oracle knows for how long an answer stays true, and asks about .027 of the frames; a "
        "run asks again while it doubts, about .26 (.38 would mend each wrong frame by itself)",
        "a heavy model that keeps its counts from frame to frame",
    ),
    ("review", "page, month: verdicts"): Reason(_MONTH, _COUNTS_BY_DAY),
    ("review", "page, week: verdicts"): Reason(
        "the median is 45 ms, of which the episodes of the week (17,500) take two thirds: they "
        "are counted again for each question",
        _COUNTS_BY_DAY,
    ),
    ("review", "events: two pages"): Reason(
        "the median is 8 ms. Three in a hundred of these questions name a source, a rule and a "
        "class: they follow the index of one, and drop what the others exclude",
        "an index by source, rule and class, which costs room and time at each episode",
    ),
    ("review", "page"): Reason(
        "almost half of the questions name neither a source nor a rule: then all episodes of the "
        "span are counted (a month has 75,000). The others take 1 to 17 ms",
        _COUNTS_BY_DAY,
    ),
    ("soak", "/healthz"): Reason(
        "one of 1,759 answers took 1.09 s, while 196 idle connections a second were opened again "
        "and 123 processes were killed in half an hour; the result does not show what was killed "
        "just before this answer",
        "next: the time of a late answer, beside that of the kill before it",
    ),
    ("soak", "dropped of bursts"): Reason(
        "the machine is full: the run, its cameras, those that harm it, readers and restarts took "
        "1.87 of the 2 cores, so a camera without bursts loses 11 % as well, away from kills",
        "a machine with more cores; next: the CPU time of each process",
    ),
    ("teach", "F1 above the default's"): Reason(
        "with the default least score, four and five false episodes begin in the parts that teach, "
        "and a filter needs ten; with .15, which has 56 and 88, second boxes of true objects bring "
        "the F1 to .54 and .46, and the worst of five filters mutes none and a seventh of the "
        "false episodes",
        "footage with many false alerts at the default score, from a user's own camera",
    ),
    ("teach", "F1 above the best rival's"): Reason(
        "a score of each class mutes 16 to 33 % of the false episodes and loses up to 11 % of the "
        "true ones; the filter mutes up to 5 %, and loses none",
        "a trait that shows a second box of the same object; more verdicts",
    ),
    ("teach", "composed miscounts"): Reason(
        "of 328 miscounted frames of 1500, 15 show more than there is; the others miss a thing",
        "a filter cannot: it takes a detector that finds more",
    ),
    ("together", "encoder above"): Reason(
        "training by masking and contrast adds little to the same encoder with random weights "
        "(`untrained`): to predict what is hidden, it needs no link of sound and place at one "
        "moment (two seeds, 400 steps of training)",
        "the products of sound and place (`aligned`), which need no training",
    ),
    ("together", "AP with 10 % of the labels / with all"): Reason(
        "40 labels contain 5 to 13 true windows; no side that learns reaches it, and the nearest "
        "is the weakest, which gains little by more labels (`like_without_sounds`: .912 of .388)",
        "more labels; a rule with `after`, which needs none",
    ),
    ("together", "AP with 10 % of the labels"): Reason(
        "no side reaches it, nor does a rule that was written for each question and needs no "
        "labels: in noise, YAMNet gives 29 to 50 % of the judged windows of an asked sound its "
        "label with a score of .3",
        "more labels; a rule with `after` where words can name the question",
    ),
    ("trackers", "pets09-s2l1-view001-part1: hota"): Reason(
        "ByteTrack's defaults start a number at a score of 0.7, ours at 0.385: fewer objects have "
        "one (recall .744 and .868, F1 .807 and .841), so fewer numbers change (3 and 15)",
        "appearance beside overlap where people meet",
    ),
    ("trackers", "mot16-04-night-1080p"): Reason(
        "with the chosen settings OC-SORT shows each box with a score of 0.3 in its first frame, "
        "ours objects with a mean of 0.385 over several looks (precision .746 and .927, recall "
        ".446 and .304); the labels are of eight frames, 0.27 s",
        "a lower min_score at night; a larger input finds twice as many people",
    ),
    ("truth", "people of PETS 2009, default"): Reason(
        "131 boxes are false, and .12 of the people are not found; the same network at 320 has F1 "
        ".878, surveillance .876, surveillance-large .883; without the gate .843",
        "surveillance-large; a camera's own network",
    ),
    ("truth", "people at night, default: recall"): Reason(
        "a picture of 1920 pixels is reduced to 416; at 1280 recall is .68 at precision .85, with "
        "surveillance-large .69 at .92. The clip has 8 frames",
        "surveillance-large at a larger input; a network for small objects",
    ),
    ("truth", "cars from above, default: recall"): Reason(
        "22 of 28 cars are found, also without the gate; surveillance finds all, at precision .93",
        "surveillance",
    ),
    ("truth", "dashcam-solidWhiteRight: F1 lost"): Reason(
        "the gate does not look at half of the frames: their F1 is .613, that of the others .659; "
        "without the gate recall is .516 instead of .480, at equal precision",
        "more looks while the camera itself moves; the CPU time without the gate is 1.48 times as "
        "high. Of 60 labelled pictures the loss is .000 to .077 at 95 %",
    ),
}

# The commit of the result that the reasons explain, by name of the result. MISSED.md marks the
# reasons of a newer result, and `benchmarks.stale` lists them.
EXPLAINED = {
    "review": "183d3dc6a",
    "alike": "d3efd25d6",
    "batching": "cb3c319a3",
    "boxes": "cb3c319a3",
    "detectors": "a71723a59",
    "drift": "65501081a",
    "end_to_end": "20ba52910",
    "events": "cb3c319a3",
    "events_rules": "a919752f8",
    "federated": "d3efd25d6",
    "first_contact": "20ba52910",
    "floor": "c1eaa7933",
    "gate": "20ba52910",
    "learn": "db162201d",
    "link": "847805c34",
    "live": "20ba52910",
    "overhead": "cb3c319a3",
    "policy": "2992fdeab",
    "promise": "2992fdeab",
    "recording": "cb3c319a3",
    "soak": "20ba52910",
    "teach": "2992fdeab",
    "together": "a6fbd7e5c",
    "trackers": "cb3c319a3",
    "truth": "536a0cdee",
}


def results() -> Iterator[tuple[str, BenchmarkResult]]:
    """Yield each kept result with its name, by benchmark."""
    for benchmark in NAMES:
        for name in sorted(path.stem for path in RESULTS.glob(f"{benchmark}*.json")):
            result = kept(name)
            if result is not None and name.partition("-")[0] == benchmark:
                yield name, result


def bars_of(name: str, result: BenchmarkResult) -> list[Bar]:
    """Return the targets of a kept result with this name."""
    return list(declared(name.partition("-")[0]).bars(result))


def missed() -> Iterator[Missed]:
    """Yield each target that a kept result misses, by benchmark."""
    for name, result in results():
        for bar in bars_of(name, result):
            if bar.held is False:
                yield Missed(name, bar)


def outdated() -> dict[str, str]:
    """Return the results with reasons of an earlier result: name -> commit of that result."""
    kept_commits = {name: result["conditions"]["commit"][:9] for name, result in results()}
    names = {item.benchmark for item in missed()}
    explained = {name: EXPLAINED.get(name, "unknown") for name in sorted(names)}
    return {name: commit for name, commit in explained.items() if commit != kept_commits[name]}


def table() -> str:
    """Return the rows of MISSED.md, and the list of targets that were not measured."""
    lines = [
        "| target | wanted | measured | reason | what would reach it |\n",
        "| --- | --- | --- | --- | --- |\n",
    ]
    earlier = outdated()
    for item in missed():
        bar, reason = item.bar, item.reason
        measured = number(bar.measured or 0.0)
        cause = reason.measured
        if item.benchmark in earlier:
            cause = f"(of an earlier result, commit {earlier[item.benchmark]}) {cause}"
        lines.append(
            f"| {item.benchmark}: {bar.what} | {bar.sign} {number(bar.wanted)} | {measured} "
            f"| {cause} | {reason.remedy} |\n"
        )
    return f"{''.join(lines)}\n{_not_measured()}"


def _not_measured() -> str:
    """Return the list of targets that no kept result has."""
    pending = [name for name in NAMES if is_pending(name)]
    lines = [f"- {name}: no result is kept\n" for name in pending]
    for name, result in results():
        whats = [bar.what for bar in bars_of(name, result) if bar.held is None]
        lines += [f"- {name}: {what}\n" for what in whats]
    return f"Not measured:\n\n{''.join(lines)}"


def is_pending(name: str) -> bool:
    """Return whether a benchmark has no kept result."""
    return name in NAMES and kept(name) is None


def unused() -> list[tuple[str, str]]:
    """Return the keys of reasons whose target is reached, or whose benchmark is gone.

    A benchmark without a kept result has not reached its targets.
    """
    used = [(item.benchmark, item.bar.what) for item in missed()]
    return [
        key
        for key in REASONS
        if not is_pending(key[0])
        and not any(name == key[0] and what.startswith(key[1]) for name, what in used)
    ]
