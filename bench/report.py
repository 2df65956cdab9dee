"""placeholder."""
import statistics
def report(result, root, *, write):
    for name, row in result["table"].items():
        print(name, {s: (round(min(f.cpu),1), round(statistics.median(f.cpu),1)) if f.cpu else None for s, f in row.items()}, {s: round(statistics.median(f.first),2) for s,f in row.items() if f.first}, {s: round(max(f.memory)) for s,f in row.items() if f.memory})
    print("speeds", min(result["speeds"]), statistics.median(result["speeds"]), max(result["speeds"]))
