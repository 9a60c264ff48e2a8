#!/bin/sh
# A target's own answers, and every drafting head trained on them:
#     sh scripts/heads.sh nano|answers|smollm OUT [TARGET [cpu|cuda]]
# Whatever is there already is kept or gone on with; what another version of this recipe, or another device, made needs
# another OUT. On a CPU, nano keeps one core busy; SmolLM2's answers come from two processes, which share the other until
# nano is ready, and end after their minutes, however many there are; smollm, which also makes answers that are not there
# yet, trains in two processes, for so many minutes each, also beside the last of nano's heads. nano is too small to need
# a GPU; what SmolLM2's recipe for one is worth is told in docs/gpu.md. CROSSDRAFT: the command, where it is not .venv/bin/crossdraft.
set -eu
which=$1 out=$2 target=${3:-nano} device=${4:-cpu}
export OMP_NUM_THREADS=1
bin=${CROSSDRAFT:-.venv/bin/crossdraft}
lead=   # exec, for the job that runs beside the others, so that it can be ended
beside= # its process
threads=1
trap 'test -z "$beside" || kill "$beside" 2>/dev/null' EXIT
trap 'exit 130' INT TERM

run() { $lead $bin "$@" --threads "$threads"; }
head() {
	name=$1
	shift
	run train head "$name" --target "$target" --data "$out/answers" --out "$out/$name" --device "$device" "$@"
}
model() {
	run train draft-model --target "$target" --data "$out/answers" --data "$out/own" --data "$out/about" \
		--out "$out/draft_model" --device "$device" "$@"
}
answer() {
	prompts=$1 corpus=$2
	shift 2
	run data answers --target "$target" --prompts "$prompts" --temperature 0,0,0.7 --max-new-tokens 160 \
		--out "$corpus" --device "$device" --batch "$batch" "$@"
}
wait_beside() {
	wait "$beside"
	beside=
}

case $which-$device in
nano-cpu | answers-cpu | smollm-cpu) batch=48 composed=1900 own=1700 about=500 makers=2 ;;
answers-cuda | smollm-cuda) batch=1024 composed=8000 own=16000 about=6000 makers=1 ;;
*)
	echo "heads.sh: '$which' on '$device' is unknown; give nano, answers or smollm, and cpu or (not nano) cuda" >&2
	exit 2
	;;
esac
mkdir -p "$out"
case $which in
nano)
	test -d "$out/clips" || $bin data scenes "$out/clips" --streams 150 --clips 16 --seed 7000
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
	threads=$makers
	if [ "$device" = cuda ]; then # the steps of one leave gaps
		(lead=exec && answer training "$out/answers" --limit "$composed") &
		beside=$!
		within() { shift && "$@"; }
	else
		within() { # a slow machine has fewer answers
			minutes=$1
			shift
			"$@" --minutes "$minutes"
		}
		within 24 answer training "$out/answers" --limit "$composed"
	fi
	test -f "$out/own.jsonl" || within 18 run data prompts --target "$target" --limit "$own" --seed 1 \
		--out "$out/own.jsonl" --device "$device" --batch "$batch"
	within 22 answer "$out/own.jsonl" "$out/own"
	test -f "$out/about.jsonl" || run data prompts --target "$target" --about "$out/own" --limit "$about" \
		--out "$out/about.jsonl"
	within 8 answer "$out/about.jsonl" "$out/about"
	test -z "$beside" || wait_beside
	threads=1
	;;
esac
if [ "$which" = smollm ]; then
	# 8,192 tokens are 97 % of what the answers say, and a level of drafting with 16,384 costs a third more
	set -- --data "$out/own" --data "$out/about" --draft-vocab 8192
	if [ "$device" = cpu ]; then
		set -- "$@" --batch 8 --processes 2 --validation 0.02
		# a third of the chains beyond their first guess: twice as many answers in the time
		head eagle3 "$@" --batch 16 --lr 2e-3 --epochs 8 --minutes 36 --passes 4 --followed 0.34 --start target \
			--freeze-output
		head eagle "$@" --lr 1e-3 --epochs 3 --minutes 6
		head hass "$@" --lr 5e-4 --epochs 2 --minutes 6 --start "$out/eagle"
		head medusa "$@" --lr 1e-3 --epochs 1 --minutes 5 --set own_head=true
		model --epochs 1 --minutes 3 --processes 2
	else
		# the target reads its answers anew for every batch, which costs less there than fetching its states
		set -- "$@" --batch 128 --online --validation 0.03
		(lead=exec && head eagle3 "$@" --lr 3e-3 --epochs 20 --minutes 4.5 --passes 5 --start target \
			--freeze-output) &
		beside=$!
		head eagle "$@" --lr 2e-3 --epochs 5 --minutes 0.9
		head hass "$@" --lr 1e-3 --epochs 3 --minutes 1.1 --start "$out/eagle"
		head medusa "$@" --lr 1e-3 --epochs 3 --minutes 0.7 --batch 64 --set own_head=true
		model --epochs 2 --minutes 0.6 --batch 64 --online
		wait_beside
	fi
fi
