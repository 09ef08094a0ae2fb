"""Sections that need nothing but the night's account and what the monitoring found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from urbanwm.contracts.signals import SIGNALS, TARGETS
from urbanwm.evaluation.metrics import ALL
from urbanwm.markdown import readable
from urbanwm.monitoring import LiveScore, MonitorReport
from urbanwm.monitoring.live import BASELINE, CHAMPION
from urbanwm.report.document import Block, Section, Table, Text, Tone, picture


def alert_section(night: Mapping[str, Any], monitor: MonitorReport | None) -> Section:
    """Show what is wrong, or that nothing is."""
    if monitor is None:
        blocks: list[Block] = [Text(str(line), "error") for line in night.get("alerts") or []]
        return Section("Alerts", [*blocks, Text("The monitoring did not run.", "warning")])
    if not monitor.alerts:
        return Section("Alerts", [Text("Nothing is wrong.", "good")])
    held = {True: " This forbids promotion.", False: ""}
    return Section(
        "Alerts",
        [
            Text(
                f"{alert.key} {alert.where}: {alert.message}.{held[alert.blocks]} "
                f"What to do: {alert.runbook}",
                alert.severity,
            )
            for alert in monitor.alerts
        ],
    )


def intake_section(night: Mapping[str, Any]) -> Section:
    """Show what the ingest brought."""
    rows = [
        [
            item["city"],
            item["inserted"],
            item["updated"],
            "; ".join(item.get("errors") or []) or "none",
        ]
        for item in night.get("ingest") or []
    ]
    table = Table(["city", "new hours", "corrected", "failed sources"], rows)
    return Section("What came in", [table] if rows else [])


def candidate_section(night: Mapping[str, Any]) -> Section:
    """Show the candidates of the night with their held-out errors."""
    candidates = night.get("candidates") or ([night["training"]] if night.get("training") else [])
    chosen = (night.get("training") or {}).get("version")
    rows: list[list[object]] = []
    for item in sorted(
        candidates, key=lambda item: (item["version"] != chosen, item.get("validation") or 0.0)
    ):
        name = item.get("label") or item["experiment"]
        scores = [_score(item["metrics"], signal) for signal in TARGETS]
        rows.append([name, item["version"], *scores, "yes" if item["version"] == chosen else ""])
    heads = [
        "candidate",
        "version",
        *(f"{name}, {SIGNALS[name].unit}" for name in TARGETS),
        "met the champion",
    ]
    lost = [Text(f"{label} was lost: {why}", "warning") for label, why in (night.get("lost") or {}).items()]
    if not rows:
        return Section("Candidates", list(lost))
    note = Text(
        "Mean absolute error on the held-out hours; in brackets how much smaller it is than that of "
        "hour-of-week climatology."
    )
    return Section("Candidates", [Table(heads, rows), note, *lost])


def _score(metrics: Mapping[str, float], signal: str) -> str:
    """Return a candidate's error on a signal, and its skill."""
    error, skill = metrics.get(f"test/{signal}/mae"), metrics.get(f"skill/{signal}/{ALL}")
    if error is None:
        return "–"
    return readable(float(error)) + ("" if skill is None else f" ({skill:+.0%})")


def gate_section(night: Mapping[str, Any]) -> Section:
    """Show the decision with its evidence."""
    promotion = night.get("promotion")
    if promotion is None:
        return Section("Gate")
    tone: Tone = "good" if promotion["promoted"] else "plain"
    blocks: list[Block] = [Text(reason, tone) for reason in promotion["reasons"]]
    rows = [
        {"label": f"{name} vs {rival}", **interval}
        for rival, compared in promotion.get("evidence", {}).get("against", {}).items()
        for name, interval in {"overall": compared["overall"], **compared["signals"]}.items()
    ]
    if rows:
        from urbanwm.figures import score_ratios

        caption = "CRPS of the candidate over its rival's, with intervals; below 1 is better"
        blocks.append(picture(score_ratios(rows), "gate", caption))
    rollback = night.get("rollback")
    if rollback:
        blocks.append(Text(f"{rollback['reason']}; version {rollback['serving']} serves.", "critical"))
    return Section("Gate", blocks)


def live_section(monitor: MonitorReport | None) -> Section:
    """Show how the stored forecasts of the last weeks came true."""
    if monitor is None or not monitor.live:
        return Section("Live skill")
    scores = {(row.city, row.signal, row.bucket, row.model): row for row in monitor.live}
    rows = [
        [
            *key,
            *(_pair(scores, key, "mae")),
            *(_pair(scores, key, "crps")),
            *(share if share == "–" else f"{share:.0%}" for share in _pair(scores, key, "coverage90")),
            max(row.hours for row in monitor.live if (row.city, row.signal, row.bucket) == key),
        ]
        for key in dict.fromkeys((row.city, row.signal, row.bucket) for row in monitor.live)
    ]
    heads = [f"{score}, {model}" for score in ("MAE", "CRPS", "in 90 %") for model in (CHAMPION, BASELINE)]
    blocks: list[Block] = [Table(["city", "signal", "lead, h", *heads, "hours"], rows)]
    if monitor.days:
        from urbanwm.figures import live_ratios

        caption = "Champion's CRPS over the baseline's per origin day; below 1 is better"
        blocks.append(picture(live_ratios([day.to_dict() for day in monitor.days]), "live", caption))
    return Section("Live skill", blocks)


def _pair(
    scores: Mapping[tuple[str, str, str, str], LiveScore], key: tuple[str, str, str], name: str
) -> list[Any]:
    """Return a score of champion and baseline; a dash where one of them was not scored."""
    found = [scores.get((*key, model)) for model in (CHAMPION, BASELINE)]
    return ["–" if row is None else getattr(row, name) for row in found]


def drift_section(monitor: MonitorReport | None) -> Section:
    """Show how far the last days are from their likes."""
    rows: Sequence[Sequence[object]] = [
        [
            row.city,
            row.signal,
            f"{row.change:+.1%}",
            "too short a record" if row.score is None else f"{row.score:+.1f}",
            f"±{row.limit}",
        ]
        for row in (monitor.drift if monitor else [])
    ]
    heads = ["city", "signal", "last 7 days against their likes", "in usual differences", "limit"]
    return Section("Drift", [Table(heads, rows)] if rows else [])


def account_section(night: Mapping[str, Any]) -> Section:
    """Show what was left out, what went wrong, and where the time went."""
    blocks: list[Block] = [Text(note) for note in night.get("notes") or []]
    blocks += [Text(error, "critical") for error in night.get("errors") or []]
    seconds = night.get("seconds") or {}
    if seconds:
        blocks.append(Table(["step", "seconds"], [[step, value] for step, value in seconds.items()]))
    if night.get("run_id"):
        blocks.append(Text(f"Run in the tracker: {night['run_id']}"))
    return Section("Account", blocks)


def lead(night: Mapping[str, Any]) -> str:
    """Say in one sentence what became of the night."""
    promotion = night.get("promotion")
    if night.get("errors"):
        return "; ".join(night["errors"])
    if promotion is None:
        return "; ".join(night.get("notes") or []) or "Nothing was decided."
    verdict = "is in service" if promotion["promoted"] else "was refused"
    return f"Version {promotion['version']} {verdict}: {'; '.join(promotion['reasons'])}."


def facts(night: Mapping[str, Any], monitor: MonitorReport | None) -> list[tuple[str, str]]:
    """Return the figures that come first."""
    promotion = night.get("promotion") or {}
    champion = monitor.champion if monitor else promotion.get("champion")
    found = [
        ("cities", str(len(night.get("ingest") or []))),
        ("new hours", f"{sum(item['inserted'] for item in night.get('ingest') or []):,}"),
        ("candidates", str(len(night.get("candidates") or []))),
        ("version in service", str(champion or "none")),
        ("alerts", str(len(monitor.alerts) if monitor else len(night.get("alerts") or []))),
    ]
    for rival, compared in promotion.get("evidence", {}).get("against", {}).items():
        found.append((f"CRPS ÷ {rival}'s", f"{compared['overall']['ratio']:.3f}"))
    seconds = night.get("seconds") or {}
    return [*found, ("minutes", f"{sum(seconds.values()) / 60:.1f}")] if seconds else found
