"""FlashInfer's attention interface over the precision paths of autoprec.

``import autoprec.flashinfer as flashinfer`` in place of ``import flashinfer``: names, arguments and
meanings are those of FlashInfer 0.6.13. Tensors may be fp32 too. What they are computed in is the
plan's choice, or what ``set_plan`` or an argument ``precision`` says.
"""

from autoprec.flashinfer.cascade import (
    MultiLevelCascadeAttentionWrapper as MultiLevelCascadeAttentionWrapper,
)
from autoprec.flashinfer.cascade import merge_state as merge_state
from autoprec.flashinfer.cascade import merge_state_in_place as merge_state_in_place
from autoprec.flashinfer.cascade import merge_states as merge_states
from autoprec.flashinfer.decode import (
    BatchDecodeWithPagedKVCacheWrapper as BatchDecodeWithPagedKVCacheWrapper,
)
from autoprec.flashinfer.decode import (
    CUDAGraphBatchDecodeWithPagedKVCacheWrapper as CUDAGraphBatchDecodeWithPagedKVCacheWrapper,
)
from autoprec.flashinfer.decode import fast_decode_plan as fast_decode_plan
from autoprec.flashinfer.decode import single_decode_with_kv_cache as single_decode_with_kv_cache
from autoprec.flashinfer.page import append_paged_kv_cache as append_paged_kv_cache
from autoprec.flashinfer.page import get_batch_indices_positions as get_batch_indices_positions
from autoprec.flashinfer.page import get_seq_lens as get_seq_lens
from autoprec.flashinfer.precision import set_plan as set_plan
from autoprec.flashinfer.prefill import (
    BatchPrefillWithPagedKVCacheWrapper as BatchPrefillWithPagedKVCacheWrapper,
)
from autoprec.flashinfer.prefill import (
    BatchPrefillWithRaggedKVCacheWrapper as BatchPrefillWithRaggedKVCacheWrapper,
)
from autoprec.flashinfer.prefill import single_prefill_with_kv_cache as single_prefill_with_kv_cache
from autoprec.flashinfer.prefill import (
    single_prefill_with_kv_cache_return_lse as single_prefill_with_kv_cache_return_lse,
)
from autoprec.flashinfer.quantization import packbits as packbits
from autoprec.flashinfer.quantization import segment_packbits as segment_packbits
