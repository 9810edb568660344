#!/usr/bin/env bash
# From a paper's grid file to its table in LaTeX and its figures.
#
#   bash examples/paper_grid/run.sh             # about 2 minutes on 2 cores, nothing is downloaded
#   bash examples/paper_grid/run.sh my.toml     # the same for a grid of your own, of up to seven pairs
#
# It writes table.tex (\input it, with booktabs and graphicx) and figures/*.pdf: differences to the student without a
# teacher, accuracy against cost, and ranks. Results are kept in paper-runs/, apart from those of other examples.
# It prints each cell that is done, the files and the leaderboard. What a grid will take says: kdbench grid plan my.toml
set -euo pipefail
grid=${1:-$(dirname "$0")/paper.toml}

kdbench grid run "$grid" --runs paper-runs --jobs 2
kdbench table paper-runs --layout paper --format latex --label tab:digits \
  --caption "Top-1 of students on digits in percent, mean and deviation over seeds." >table.tex
for figure in differences cost ranks; do
  kdbench plot "$figure" paper-runs --out figures --format pdf
done
kdbench leaderboard paper-runs
