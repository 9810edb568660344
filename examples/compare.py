"""Compare methods from Python: a teacher, students with and without it, a table and a leaderboard.

    python examples/compare.py               # about a minute on 2 cores, nothing is downloaded
    python examples/compare.py --epochs 1    # to see that it runs

It prints the accuracy of each student as it finishes, then the table of all and the ranks of the methods.
Everything is kept in runs/: typed again, it trains nothing and prints the same.
"""

import argparse

import kdbench

PROTOCOL, TEACHER, STUDENT = "digits-demo-v2", "wrn_16_2", "resnet8"
METHODS = ["ce", "kd", "dkd", "crd"]  # ce is the student without a teacher


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, help="of teacher and students; the protocol's by default")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()

    teacher = kdbench.Session.open(PROTOCOL, epochs=options.epochs).train_teacher(TEACHER)
    print(f"teacher: {teacher.accuracy:.2f} %")

    for seed in range(1, options.seeds + 1):
        for method in METHODS:
            record = kdbench.train(
                PROTOCOL, teacher=TEACHER, student=STUDENT, method=method, seed=seed, epochs=options.epochs
            )
            print(f"{method}, seed {seed}: {record['top1']:.2f} %")

    print(kdbench.table("runs"))
    print(kdbench.leaderboard("runs"))


if __name__ == "__main__":
    main()
