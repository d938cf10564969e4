"""Rows of the tables that list single figures: text, path of the value in the result, unit."""

from __future__ import annotations

Row = tuple[str, str, str]

OVERHEAD: tuple[Row, ...] = (
    ("CPU a frame, 1 file", "cpu_ms_file_1", "ms"),
    ("... against the same stages over `multiprocessing.Queue`", "cpu_ratio_file_1", "times"),
    ("CPU a frame, 4 files", "cpu_ms_file_4", "ms"),
    ("... against `multiprocessing.Queue`", "cpu_ratio_file_4", "times"),
    ("CPU a frame, 4 sources at 30 frames/s, phases spread", "cpu_ms_live_spread", "ms"),
    ("... against `multiprocessing.Queue`", "cpu_ratio_live_spread", "times"),
    ("CPU a frame, 4 sources at 30 frames/s, on one tick", "cpu_ms_live_tick", "ms"),
    ("... against `multiprocessing.Queue`", "cpu_ratio_live_tick", "times"),
    ("one hop, median", "hop_p50_us", "µs"),
    ("one hop, 99 % below", "hop_p99_us", "µs"),
    ("source to result, median", "e2e_p50_ms", "ms"),
    ("source to result, 99 % below", "e2e_p99_ms", "ms"),
    ("append-only file", "aof_bytes_per_frame", "bytes a frame"),
)
END_TO_END: tuple[Row, ...] = (
    ("frames/s against the faster of two bare loops", "fps_ratio", "times"),
    ("arrival to publish at the clip's own rate, median", "latency_p50_ms", "ms"),
    ("... 99 % below", "latency_p99_ms", "ms"),
    ("... against the bare loop's", "latency_p99_ratio", "times"),
    ("the model alone", "model_ms", "ms"),
    ("CPU for a second of video", "cpu_s_per_video_s", "s"),
    ("... against Roboflow's", "peer_cpu_ratio", "times"),
    ("99 % below, against Roboflow's", "peer_p99_ratio", "times"),
    ("peak memory of the whole tree", "peak_rss_mb", "MB"),
)
PROMISE: tuple[Row, ...] = (
    ("frames of a composed hour", "frames", ""),
    ("audits (n)", "n", ""),
    ("wrong ones among them (k)", "k", ""),
    ("the certificate: at most so many frames differ, at 95 %", "certified_bound", "of all"),
    ("frames that do differ, of all", "realised_error", "of all"),
    ("asked about before they were served", "escalated_share", "of all"),
    ("... by an oracle, each answer for its own frame", "oracle_share", "of all"),
    ("audited", "audit_share", "of all"),
    ("CPU of all processes, by that of a heavy pass on every frame", "cpu_ratio_vs_heavy", "times"),
)
CACHE: tuple[Row, ...] = (
    (
        "hits from the second round of a looped clip on, gate off",
        "hit_rate_second_round",
        "of looks",
    ),
    ("... the detector's CPU without the cache, by that with it", "detector_cpu_ratio", "times"),
    (
        "hits there with the gate on, which looks elsewhere in each round",
        "gate_on_hit_rate_second_round",
        "of looks",
    ),
    ("a look-up in the store", "look_up_ms", "ms"),
    (
        "what it costs on a source without hits, once it has switched itself off",
        "noisy_cost",
        "of a pass",
    ),
)
SWAPS: tuple[Row, ...] = (
    ("p99 from `models use` to two seconds after, against a span without", "p99_ratio", "times"),
    ("... after a rollback", "rollback_p99_ratio", "times"),
    ("p99 without a change, two cameras", "p99_before_ms", "ms"),
    ("changes in a row", "swaps", ""),
    ("memory, second half of these against the first", "memory_growth", "more"),
    ("descriptors, likewise", "fd_growth", "more"),
)
SOUND = (
    ("labelled sounds of which a right label is in the top 5", "top5", "of all"),
    ("... by LiteRT, of the published file", "reference_top5", "of all"),
    ("labels of LiteRT's top 5 that are in ours", "top5_agreement", "of them"),
    ("worst difference of a score, mean of a sound's windows", "worst_difference", ""),
    ("CPU a second of sound, if each window is looked at", "cpu_ms_per_second", "ms"),
    ("... by LiteRT", "reference_cpu_ms_per_second", "ms"),
    (
        "windows not looked at: ten minutes of a room in which each sound is played",
        "scenes.0.skipped",
        "of all",
    ),
    ("... ten seconds in a kitchen, somebody speaking", "scenes.1.skipped", "of all"),
    ("... a clip with a silent track", "scenes.2.skipped", "of all"),
    ("labels of what was played in the room", "scenes.0.played_labels", ""),
    ("... that the gate missed", "scenes.0.played_labels_missed", ""),
)
RECORDING = (
    ("CPU of recording 8 cameras of 1080p, 4 Mbit/s and sound each", "core_share", "of a core"),
    ("packets of these recordings", "packets", ""),
    ("... that are byte for byte what came", "packets_equal", ""),
    ("from a time to its decoded picture, p99", "seek_p99_ms", "ms"),
    ("processes that were killed while they recorded", "kills", ""),
    ("... what that lost of the recording, at most", "lost_most_s", "s"),
    ("... pictures that do not decode afterwards", "undecodable", ""),
)
DRIFT = (
    ("a camera is turned: frames to the alarm", "drifts.0.frames_to_alarm", ""),
    ("... audits among them", "drifts.0.audits_to_alarm", ""),
    ("night falls: frames to the alarm", "drifts.1.frames_to_alarm", ""),
    ("... audits among them", "drifts.1.audits_to_alarm", ""),
    ("false alarms", "false_alarms", ""),
    ("drifted periods that were certified", "drifted_certified", ""),
)
SOAK = (
    ("minutes", "minutes", ""),
    ("workers killed", "kills.worker", ""),
    ("camera servers killed", "kills.server", ""),
    ("stores killed", "kills.store", ""),
    ("sources added", "guests.added", ""),
    ("samples of the accounting", "samples", ""),
    ("... in which it did not close", "samples_unbalanced", ""),
    ("results that came twice", "doubled", ""),
    ("recorded files that were lost", "recordings_lost", ""),
    ("idle connections to the HTTP port", "idle_connections", ""),
    ("longest answer of /healthz", "healthz_worst_s", "s"),
    ("dropped of pictures that come 8 at once, share", "burst_dropped", ""),
    ("dropped of the same pictures one by one, share", "steady_dropped", ""),
    ("p99 beside hostile cameras, against without", "neighbour_p99_ratio", "times"),
    ("memory, most", "slopes.memory_mb.most", "MB"),
    ("the store's log, most", "slopes.log_mb.most", "MB"),
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
}
