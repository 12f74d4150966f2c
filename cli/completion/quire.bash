# Completion of quire(1) for bash.
_quire() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	local command=${COMP_WORDS[1]} at
	local params='
		kvm.allow_unsafe_mappings kvm.eager_page_split kvm.enable_pmu
		kvm.enable_vmware_backdoor kvm.flush_on_reuse kvm.force_emulation_prefix kvm.gmem_in_place_conversion
		kvm.halt_poll_ns kvm.halt_poll_ns_grow kvm.halt_poll_ns_grow_start
		kvm.halt_poll_ns_shrink kvm.ignore_msrs kvm.kvmclock_periodic_sync
		kvm.lapic_timer_advance kvm.min_timer_period_us kvm.mitigate_smt_rsb
		kvm.mmio_caching kvm.nested_svm kvm.nx_huge_pages
		kvm.nx_huge_pages_recovery_period_ms kvm.nx_huge_pages_recovery_ratio kvm.quire_ept
		kvm.quire_gmem_contents kvm.quire_gmem_huge_pages kvm.quire_gmem_hugetlb
		kvm.quire_gmem_link kvm.quire_gmem_userfault kvm.quire_gmem_write
		kvm.quire_hide_caps kvm.quire_lockstep kvm.quire_phys_bits kvm.quire_split_ahead
		kvm.quire_translate kvm.report_ignored_msrs kvm.tdp_mmu kvm.tsc_tolerance_ppm kvm.vector_hashing
		kvm_amd.avic kvm_amd.enable_mediated_pmu kvm_amd.lbrv kvm_amd.nested kvm_amd.npt
		kvm_amd.nrips kvm_amd.sev kvm_amd.sev_es kvm_amd.sev_snp kvm_amd.vgif
		kvm_intel.enable_apicv kvm_intel.enable_mediated_pmu kvm_intel.ept kvm_intel.eptad
		kvm_intel.flexpriority kvm_intel.nested kvm_intel.pml kvm_intel.tdx
		kvm_intel.unrestricted_guest kvm_intel.vpid
	'
	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W 'run stat view doctor version help' -- "$word")
		return
	fi
	# Behind -- or the first word that is no option, the words are the program's.
	[[ $command == @(stat|view) ]] || for ((at = 2; at < COMP_CWORD; at++)); do
		case ${COMP_WORDS[at]} in
		--param | --report | --sanitize | --sanitize-exit | --sanitize-json | --sanitize-suppressions | \
			--stats | --trace | --trace-filter | --trace-size) ((at++)) ;;
		--cpuid | --help | --json | --list-params) ;;
		*)
			[ "${COMP_WORDS[at]}" = -- ] && ((at++))
			if declare -F _command_offset >/dev/null; then
				_command_offset "$at"
			elif [ "$COMP_CWORD" -eq "$at" ]; then
				mapfile -t COMPREPLY < <(compgen -c -- "$word")
			else
				mapfile -t COMPREPLY < <(compgen -f -- "$word")
			fi
			return
			;;
		esac
	done
	case $command:$before in
	run:--param)
		mapfile -t COMPREPLY < <(compgen -W "$params" -S = -- "$word")
		compopt -o nospace 2>/dev/null
		;;
	run:--sanitize) mapfile -t COMPREPLY < <(compgen -W 'dirty private slot tlb' -- "$word") ;;
	run:--sanitize-exit | run:--trace-filter | run:--trace-size) ;;
	run:--report | run:--sanitize-json | run:--sanitize-suppressions | run:--stats | run:--trace) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
	run:*) mapfile -t COMPREPLY < <(compgen -W '--cpuid --help --list-params --param --report --sanitize --sanitize-exit --sanitize-json --sanitize-suppressions --stats --trace --trace-filter --trace-size --' -c -- "$word") ;;
	stat:--interval | stat:--count) ;;
	stat:*) mapfile -t COMPREPLY < <(compgen -W '--count --help --interval --json' -- "$word") ;;
	view:--cells | view:--vm) ;;
	view:*) mapfile -t COMPREPLY < <(compgen -W '--cells --help --json --svg --text --vm' -f -- "$word") ;;
	doctor:*) mapfile -t COMPREPLY < <(compgen -W '--help --json --' -- "$word") ;;
	esac
}
complete -o default -F _quire quire
