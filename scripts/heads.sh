#!/bin/sh
# A target's own answers, and every drafting head trained on them: sh scripts/heads.sh nano|answers|smollm OUT [TARGET]
# Whatever is there already is kept or gone on with; what another version of this recipe made needs another OUT. nano,
# and SmolLM2's answers alone, keep one core busy each; smollm, which also makes answers that are not there yet, trains
# on both.
set -eu
which=$1 out=$2 target=${3:-nano}
export OMP_NUM_THREADS=1
run() { .venv/bin/crossdraft "$@" --threads 1; }
head() { name=$1; shift; run train head "$name" --target "$target" --data "$out/answers" --out "$out/$name" "$@"; }

mkdir -p "$out"
case $which in
nano)
	test -d "$out/clips" || .venv/bin/crossdraft data scenes "$out/clips" --streams 150 --clips 16 --seed 7000
	run data answers --target nano --prompts "$out/clips" --per-clip 2 --max-new-tokens 128 --out "$out/answers"
	# small enough to be shipped together
	for name in eagle hass; do
		head "$name" --clips "$out/clips" --set intermediate_size=256
	done
	for name in eagle_vlm vispec msd; do
		head "$name" --clips "$out/clips" --set intermediate_size=128
	done
	head spec_vlm --clips "$out/clips" --set intermediate_size=128 --set branches=prune,pool,conv,text-only
	head eagle3 --clips "$out/clips" --set intermediate_size=256 --draft-vocab 512 --passes 5
	head medusa --clips "$out/clips"
	;;
answers | smollm)
	# composed prompts of the league's kinds, prompts that the target makes up itself, and tasks about its own texts:
	# the more kinds of text, the better a head guesses on text that it has not seen
	run data answers --target "$target" --prompts training --limit 2500 --temperature 0,0,0.7 \
		--max-new-tokens 160 --out "$out/answers"
	test -f "$out/own.jsonl" || run data prompts --target "$target" --limit 3000 --seed 1 --out "$out/own.jsonl"
	run data answers --target "$target" --prompts "$out/own.jsonl" --temperature 0,0,0.7 \
		--max-new-tokens 160 --out "$out/own"
	test -f "$out/about.jsonl" || run data prompts --target "$target" --about "$out/own" --limit 1000 \
		--out "$out/about.jsonl"
	run data answers --target "$target" --prompts "$out/about.jsonl" --temperature 0,0,0.7 \
		--max-new-tokens 160 --out "$out/about"
	if [ "$which" = smollm ]; then
		set -- --data "$out/own" --data "$out/about"
		heads="--draft-vocab 16384 --batch 8 --processes 2"
		head eagle3 "$@" $heads --lr 1.5e-3 --epochs 3 --passes 4 --start target --freeze-output
		head eagle "$@" $heads --lr 1e-3 --epochs 3
		head hass "$@" $heads --lr 5e-4 --epochs 2 --start "$out/eagle"
		head medusa "$@" $heads --lr 1e-3 --epochs 1 --minutes 12 --set own_head=true
		run train draft-model --target "$target" --data "$out/answers" "$@" --out "$out/draft_model" \
			--epochs 1 --minutes 6 --processes 2
	fi
	;;
*)
	echo "heads.sh: '$which' is unknown; give nano, answers or smollm" >&2
	exit 2
	;;
esac
