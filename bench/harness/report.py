"""Tables and JSON from the rounds."""
import statistics

FIGURES = [
    ("cpu_us", "CPU µs per request", "{:.1f}"),
    ("requests_per_s", "requests/s", "{:,.0f}"),
    ("p50_us", "p50 µs", "{:,.0f}"),
    ("p99_us", "p99 µs", "{:,.0f}"),
    ("rss_mb", "memory MB", "{:.1f}"),
    ("peak_mb", "peak MB", "{:.1f}"),
    ("ready_ms", "start ms", "{:,.0f}"),
]
OURS = "Celerity"


def summary(rounds):
    """Median and extremes of each figure over a proxy's rounds."""
    result = {}
    for key, _, _ in FIGURES:
        values = [r[key] for r in rounds if key in r]
        if values:
            result[key] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return result


def ratios(ours, theirs):
    """Ours over theirs, round by round: both sides of a pair ran within the same minute."""
    result = {}
    for key, _, _ in FIGURES:
        pairs = [a[key] / b[key] for a, b in zip(ours, theirs) if b.get(key) and key in a]
        if pairs:
            result[key] = {"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs)}
    return result


def _cell(stat, shape):
    if not stat:
        return "-"
    return f"{shape.format(stat['median'])} ({shape.format(stat['min'])}..{shape.format(stat['max'])})"


def table(scenario, results, absent):
    """Markdown for one scenario: medians with extremes, then the ratios of ours to each peer."""
    lines = [f"### ({scenario.key}) {scenario.title}", "", f"Latency at {scenario.rate:,} requests/s.", ""]
    lines.append("| proxy | " + " | ".join(title for _, title, _ in FIGURES) + " | errors |")
    lines.append("|---" * (len(FIGURES) + 2) + "|")
    for name, rounds in results.items():
        stats = summary(rounds)
        errors = sum(r["errors"] for r in rounds)
        lines.append(f"| {name} | " + " | ".join(_cell(stats.get(k), shape) for k, _, shape in FIGURES) + f" | {errors} |")
    for name, why in absent.items():
        lines.append(f"| {name} | n/a: {why} |" + " |" * len(FIGURES))
    if OURS in results:
        lines += ["", "| Celerity / | " + " | ".join(title for _, title, _ in FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
        for name, rounds in results.items():
            if name != OURS:
                stats = ratios(results[OURS], rounds)
                lines.append(f"| {name} | " + " | ".join(_cell(stats.get(k), "{:.2f}") for k, _, _ in FIGURES) + " |")
    return "\n".join(lines) + "\n"
