"""Rows of the tables that list single figures: text, path of the value in the result, unit."""

from __future__ import annotations

Row = tuple[str, str, str]

OVERHEAD: tuple[Row, ...] = (
    ("CPU per frame, 1 file", "cpu_ms_file_1", "ms"),
    ("... against the same stages over `multiprocessing.Queue`", "cpu_ratio_file_1", "times"),
    ("CPU per frame, 4 files", "cpu_ms_file_4", "ms"),
    ("... against `multiprocessing.Queue`", "cpu_ratio_file_4", "times"),
    ("CPU per frame, 4 sources at 30 frames/s, phases spread", "cpu_ms_live_spread", "ms"),
    ("... against `multiprocessing.Queue`", "cpu_ratio_live_spread", "times"),
    ("CPU per frame, 4 sources at 30 frames/s, all at the same moment", "cpu_ms_live_tick", "ms"),
    ("... against `multiprocessing.Queue`", "cpu_ratio_live_tick", "times"),
    ("one hop between stages, median", "hop_p50_us", "µs"),
    ("one hop between stages, p99", "hop_p99_us", "µs"),
    ("source to result, median", "e2e_p50_ms", "ms"),
    ("source to result, p99", "e2e_p99_ms", "ms"),
    ("append-only file of the store", "aof_bytes_per_frame", "bytes per frame"),
)
END_TO_END: tuple[Row, ...] = (
    ("frames/s, against the faster of two bare loops", "fps_ratio", "times"),
    ("arrival to published result, at the rate of the clip, median", "latency_p50_ms", "ms"),
    ("... p99", "latency_p99_ms", "ms"),
    ("... p99, against the bare loop", "latency_p99_ratio", "times"),
    ("the network alone", "model_ms", "ms"),
    ("CPU per second of video", "cpu_s_per_video_s", "s"),
    ("... against Roboflow", "peer_cpu_ratio", "times"),
    ("p99, against Roboflow", "peer_p99_ratio", "times"),
    ("peak memory of all processes", "peak_rss_mb", "MB"),
)
PROMISE: tuple[Row, ...] = (
    ("frames of the composed hour", "frames", ""),
    ("audits (n)", "n", ""),
    ("wrong frames among the audits (k)", "k", ""),
    ("bound of the certificate: share of wrong frames, at 95 %", "certified_bound", "of all"),
    ("wrong frames, counted", "realised_error", "of all"),
    ("frames sent to the heavy model before they were published", "escalated_share", "of all"),
    ("... by an oracle that knows the wrong frames", "oracle_share", "of all"),
    ("audited frames", "audit_share", "of all"),
    ("CPU of all processes, against the heavy model on every frame", "cpu_ratio_vs_heavy", "times"),
)
CACHE: tuple[Row, ...] = (
    (
        "hits from the second round of a looped clip, gate off",
        "hit_rate_second_round",
        "of detections",
    ),
    ("... CPU of the detector without the cache, against with it", "detector_cpu_ratio", "times"),
    (
        "hits with the gate on, which computes other areas in each round",
        "gate_on_hit_rate_second_round",
        "of detections",
    ),
    ("a look-up", "look_up_ms", "ms"),
    (
        "cost on a source without hits, once the cache has switched itself off",
        "noisy_cost",
        "of a detection",
    ),
)
SWAPS: tuple[Row, ...] = (
    ("p99 from `models use` until two seconds after, against no change", "p99_ratio", "times"),
    ("... after a rollback", "rollback_p99_ratio", "times"),
    ("p99 without a change, two cameras", "p99_before_ms", "ms"),
    ("changes in succession", "swaps", ""),
    ("growth of memory, second half against the first", "memory_growth", ""),
    ("growth of file descriptors, likewise", "fd_growth", ""),
)
SOUND = (
    ("labelled sounds with a right label among the first 5", "top5", "of all"),
    ("... by LiteRT, with the published file", "reference_top5", "of all"),
    ("first 5 labels of LiteRT that are among our first 5", "top5_agreement", "of all"),
    (
        "largest difference of a score, as the mean of the windows of a sound",
        "worst_difference",
        "",
    ),
    ("CPU per second of sound, if every window is computed", "cpu_ms_per_second", "ms"),
    ("... by LiteRT", "reference_cpu_ms_per_second", "ms"),
    (
        "windows skipped: ten minutes of a room in which each sound is played",
        "scenes.0.skipped",
        "of all",
    ),
    ("... ten seconds in a kitchen with speech", "scenes.1.skipped", "of all"),
    ("... a clip with a silent track", "scenes.2.skipped", "of all"),
    ("labels of the sounds played in the room", "scenes.0.played_labels", ""),
    ("... missed because their windows were skipped", "scenes.0.played_labels_missed", ""),
)
RECORDING = (
    ("CPU to record 8 cameras (1080p, 4 Mbit/s, with sound)", "core_share", "of a core"),
    ("packets in the recordings", "packets", ""),
    ("... equal to the received packets, byte for byte", "packets_equal", ""),
    ("seek to a time and decode its picture, p99", "seek_p99_ms", "ms"),
    ("processes killed while they recorded", "kills", ""),
    ("... largest loss of a recording", "lost_most_s", "s"),
    ("... pictures that cannot be decoded afterwards", "undecodable", ""),
)
DRIFT = (
    ("a camera is turned: frames until the alarm", "drifts.0.frames_to_alarm", ""),
    ("... audits among them", "drifts.0.audits_to_alarm", ""),
    ("night falls: frames until the alarm", "drifts.1.frames_to_alarm", ""),
    ("... audits among them", "drifts.1.audits_to_alarm", ""),
    ("false alarms", "false_alarms", ""),
    ("periods with drift that were certified", "drifted_certified", ""),
)
SOAK = (
    ("minutes", "minutes", ""),
    ("workers killed", "kills.worker", ""),
    ("camera servers killed", "kills.server", ""),
    ("stores killed", "kills.store", ""),
    ("sources added", "guests.added", ""),
    ("checks that all frames are accounted for", "samples", ""),
    ("... that failed", "samples_unbalanced", ""),
    ("results published twice", "doubled", ""),
    ("recorded files lost", "recordings_lost", ""),
    ("idle connections to the HTTP port", "idle_connections", ""),
    ("slowest answer of `/healthz`", "healthz_worst_s", "s"),
    ("share of dropped frames, arriving 8 at once", "burst_dropped", ""),
    ("share of dropped frames, the same frames one by one", "steady_dropped", ""),
    ("p99 beside hostile cameras, against without them", "neighbour_p99_ratio", "times"),
    ("memory, maximum", "slopes.memory_mb.most", "MB"),
    ("append-only file of the store, maximum", "slopes.log_mb.most", "MB"),
)
FLEET = (
    ("process of a slot killed: time to the first result, median", "failures.0.p50_s", "s"),
    ("... worst", "failures.0.worst_s", "s"),
    ("host killed: time to the first result, median", "failures.1.p50_s", "s"),
    ("... worst", "failures.1.worst_s", "s"),
    ("link of a host cut: time to the first result, median", "failures.2.p50_s", "s"),
    ("... worst", "failures.2.worst_s", "s"),
    ("planned move: time to the first result, median", "failures.3.p50_s", "s"),
    ("... worst", "failures.3.worst_s", "s"),
    ("... frames lost, median, of a camera with 10 frames/s", "failures.3.frames_lost", ""),
    ("sources of a lost slot that move", "moves.own", ""),
    ("sources of other slots that move", "moves.others", ""),
    ("`framegate fleet apply` with 10,000 sources", "apply_s", "s"),
    ("memory of the keeper per host", "idle_mb", "MB"),
    ("CPU of the keeper per host", "idle_cpu", "cores"),
    ("hops of one primary", "hops_per_s", "per second"),
    ("primaries for 10,000 cameras with 10 frames/s", "primaries", ""),
)
FLEET_WEEK = (
    ("planned move: time without results, 99 %", "causes.planned move.p99_s", "s"),
    ("process killed: time without results, 99 %", "causes.process killed.p99_s", "s"),
    ("... worst", "causes.process killed.worst_s", "s"),
    ("link of a host cut: time without results, 99 %", "causes.link cut.p99_s", "s"),
    ("... worst", "causes.link cut.worst_s", "s"),
    ("power of a host lost: time without results, 99 %", "causes.host lost.p99_s", "s"),
    ("... worst", "causes.host lost.worst_s", "s"),
    ("sources that plans move", "moves_a_day", "a day"),
    ("slots that the engine moves", "slot_moves_a_day", "a day"),
    ("sources without a slot while a slot had room", "never.unplaced", ""),
    ("generations with two owners", "never.owners", ""),
    ("simulations", "conditions.seeds", ""),
)
ROWS: dict[str, tuple[Row, ...]] = {
    "drift": DRIFT,
    "soak": SOAK,
    "overhead": OVERHEAD,
    "end_to_end": END_TO_END,
    "promise": PROMISE,
    "cache": CACHE,
    "swaps": SWAPS,
    "recording": RECORDING,
    "sound": SOUND,
    "fleet": FLEET,
    "fleet_week": FLEET_WEEK,
}
