"""Tables and JSON from the rounds."""
import math
import statistics

from .scenarios import SERVICES_MANY

FIGURES = [
    ("cpu_us", "CPU µs per request", "{:.1f}"),
    ("requests_per_s", "requests/s", "{:,.0f}"),
    ("paced_cpu_us", "CPU µs at the fixed rate", "{:.1f}"),
    ("p50_us", "p50 µs", "{:,.0f}"),
    ("p99_us", "p99 µs", "{:,.0f}"),
    ("burst_p99_us", "p99 of bursts µs", "{:,.0f}"),
    ("rss_mb", "memory MB", "{:.1f}"),
    ("peak_mb", "peak MB", "{:.1f}"),
    ("ready_ms", "start ms", "{:,.0f}"),
]
OURS = "Celerity"
LEDGER_OFF = "Celerity, ledger off"

# What is to be reached: (scenario, figure, peer, the highest ratio of ours to theirs).
TARGETS = [
    ("a", "cpu_us", "HAProxy", 1.0), ("a", "cpu_us", "Envoy", 0.35), ("b", "cpu_us", "HAProxy", 1.2), ("b", "cpu_us", "Envoy", 0.35),
    *((key, "p99_us", "HAProxy", 1.0) for key in "abcde"),
    ("a", "rss_mb", "Envoy", 1 / 3), ("e", "rss_mb", "Envoy", 1 / 3), ("a", "cpu_us", LEDGER_OFF, 1.03),
]
READY_MS_MAX = 100
SERVICE_KB_MAX = 10
UNATTRIBUTED_MAX = 0.02


def spread(values):
    """The median, and between which values that of endless rounds lies with 95 % confidence, whatever their distribution:
    order statistics, by the binomial of one half (Hahn and Meeker, Statistical Intervals, section 5.2). Under six rounds the
    extremes do not cover so much, and are given."""
    ordered, count = sorted(values), len(values)
    skipped, below = 0, 1 / 2 ** count
    while (below := below + math.comb(count, skipped + 1) / 2 ** count) <= 0.025:
        skipped += 1
    return {"median": statistics.median(ordered), "low": ordered[skipped], "high": ordered[-1 - skipped]}


def summary(rounds):
    """Each figure over a proxy's rounds."""
    result = {}
    for key, _, _ in FIGURES:
        values = [r[key] for r in rounds if key in r]
        if values:
            result[key] = spread(values)
    return result


def ratios(ours, theirs):
    """Ours over theirs, round by round: both sides of a pair ran within the same minute."""
    result = {}
    for key, _, _ in FIGURES:
        pairs = [a[key] / b[key] for a, b in zip(ours, theirs) if b.get(key) and key in a]
        if pairs:
            result[key] = spread(pairs)
    return result


def cell(stat, shape):
    if not stat:
        return "-"
    return f"{shape.format(stat['median'])} ({shape.format(stat['low'])}..{shape.format(stat['high'])})"


def table(scenario, results, absent):
    """Markdown for one scenario: medians with extremes, then the ratios of ours to each peer."""
    lines = [f"### ({scenario.key}) {scenario.title}", "", f"Latency at {scenario.rate:,} requests/s: independent arrivals (`celerity load`), and bursts of 64 (h2load).", ""]
    lines.append("| proxy | " + " | ".join(title for _, title, _ in FIGURES) + " | errors |")
    lines.append("|---" * (len(FIGURES) + 2) + "|")
    for name, rounds in results.items():
        stats = summary(rounds)
        errors = sum(r["errors"] for r in rounds)
        lines.append(f"| {name} | " + " | ".join(cell(stats.get(k), shape) for k, _, shape in FIGURES) + f" | {errors} |")
    for name, why in absent.items():
        lines.append(f"| {name} | n/a: {why} |" + " |" * len(FIGURES))
    if OURS in results:
        lines += ["", "| Celerity / | " + " | ".join(title for _, title, _ in FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
        for name, rounds in results.items():
            if name != OURS:
                stats = ratios(results[OURS], rounds)
                lines.append(f"| {name} | " + " | ".join(cell(stats.get(k), "{:.2f}") for k, _, _ in FIGURES) + " |")
    return "\n".join(lines) + "\n"


def verdicts(everything):
    """Each target beside what was measured, met or missed by the median; those that nothing was measured for are left out."""
    titles = {key: title for key, title, _ in FIGURES}
    lines = ["### Targets", "", "| | measured | at most | |", "|---|---|---|---|"]

    def line(what, stat, most, shape="{:.2f}"):
        verdict = "met" if stat["median"] <= most else "**missed**"
        if stat["low"] <= most < stat["high"]:
            verdict += ", within the spread"
        lines.append(f"| {what} | {cell(stat, shape)} | {shape.format(most)} | {verdict} |")

    for key, figure, peer, most in TARGETS:
        results = everything.get(key, {})
        if OURS in results and peer in results:
            stat = ratios(results[OURS], results[peer]).get(figure)
            if stat:
                line(f"({key}) {titles[figure]}, ours / {peer}", stat, most)
    for key, results in everything.items():
        shares = [r["unattributed"] for r in results.get(OURS, []) if "unattributed" in r]
        if shares:
            line(f"({key}) share of time unattributed", spread(shares), UNATTRIBUTED_MAX, "{:.4f}")
    many, one = everything.get("e", {}).get(OURS), everything.get("a", {}).get(OURS)
    if many:
        line("(e) start ms", summary(many)["ready_ms"], READY_MS_MAX, "{:.0f}")
    if many and one:
        # Once a round: after its last turn.
        steady = [[turn["rss_mb"] for turn in turns if "rss_mb" in turn] for turns in (many, one)]
        each = [(m - o) * 1024 / SERVICES_MANY for m, o in zip(*steady)]
        line("memory of a service in KB: (e) less (a), by the services", spread(each), SERVICE_KB_MAX, "{:.1f}")
    return "\n".join(lines) + "\n" if len(lines) > 4 else ""


def into_readme(path, table):
    """Replaces what stands between the marks."""
    begin, end = "<!-- bench:begin -->", "<!-- bench:end -->"
    with open(path) as f:
        text = f.read()
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise RuntimeError(f"{path} has no place for the table: {begin} and {end}")
    with open(path, "w") as f:
        f.write(f"{before}{begin}\n{table}\n{end}{after}")
