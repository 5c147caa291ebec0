"""A decoder layer with its adapter becomes Triton code for a card, made by Inductor from shapes, without a card.

Only the forward pass: a build of torch without CUDA ends the process at the first gradient of a CUDA tensor. What the
code computes and how fast is for `make gpu-check`.
"""

import contextlib
import re
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from snaketune.model.adapters.lora import leave_inputs_to_autocast
from snaketune.train.kernels.attention import VARLEN, register_varlen

TOKENS, WIDTH, HEADS = 256, 128, 4
H100 = {"multi_processor_count": 132, "major": 9, "regs_per_multiprocessor": 65536, "warp_size": 32}


@contextlib.contextmanager
def an_h100():
    """Let Inductor find a card and a compiler for it; it only asks about them before it writes code."""
    said = SimpleNamespace(name="NVIDIA H100", minor=0, total_memory=80 << 30, L2_cache_size=50 << 20, **H100)
    hints = DeviceProperties(type="cuda", index=0, cc=90, max_threads_per_multi_processor=2048, **H100)
    answers = {
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.get_device_properties": lambda *args: said,
        "torch.cuda.get_device_capability": lambda *args: (9, 0),
        "torch.cuda._lazy_init": lambda: None,
        "torch._inductor.scheduler.has_triton": lambda *args: True,
        "torch.utils._triton.triton_hash_with_backend": lambda: "paper",
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("torch.version.cuda", "13.0"))
        stack.enter_context(mock.patch.object(DeviceProperties, "create", classmethod(lambda cls, device: hints)))
        for name, answer in answers.items():
            stack.enter_context(mock.patch(name, answer))
        yield


def _halves(x):
    one, other = x.chunk(2, -1)
    return torch.cat((-other, one), dim=-1)


def layer_graph():
    """The forward of one layer with LoRA on packed rows, in mixed precision, as operations on a card."""
    register_varlen()
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        attn_implementation=VARLEN,
    )
    with torch.device("meta"):
        model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=8, target_modules="all-linear"))
    leave_inputs_to_autocast(model)
    mode = FakeTensorMode(shape_env=ShapeEnv())
    with mode, torch.device("cuda:0"):
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                dtype = torch.float32 if weight.requires_grad else torch.bfloat16
                setattr(module, name, torch.nn.Parameter(torch.empty(weight.shape, dtype=dtype), requires_grad=False))
        states = torch.empty(1, TOKENS, WIDTH, dtype=torch.bfloat16)
        angles = torch.empty(1, TOKENS, WIDTH // HEADS, dtype=torch.bfloat16)
        boundaries = torch.empty(9, dtype=torch.int32)
        layer = model.get_base_model().model.layers[0]

        def forward(states, angles, boundaries):
            told = {"cu_seq_lens_q": boundaries, "cu_seq_lens_k": boundaries, "max_length_q": 64}
            with torch.autocast("cuda", torch.bfloat16):
                return layer(states, position_embeddings=(angles, angles), **told)

        # Indexing a tensor of a card wants a card even of shapes alone; halves are the same.
        with torch.no_grad(), mock.patch.object(modeling_llama, "rotate_half", _halves):
            return make_fx(forward, decomposition_table=select_decomp_table())(states, angles, boundaries), mode


@pytest.fixture(scope="module")
def code():
    """What Inductor writes, and the operations that it leaves to libraries."""
    with an_h100():
        graph, mode = layer_graph()
        inputs = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
        lowering = GraphLowering(graph, shape_env=mode.shape_env)
        with V.set_graph_handler(lowering), V.set_fake_mode(mode), V.set_debug_handler(DebugContext()):
            lowering.run(*inputs)
            written, _ = lowering.codegen()
    return str(getattr(written, "value", written)), graph


def test_a_layer_is_triton_code_around_products_and_one_attention(code):
    written, graph = code
    kernels = re.findall(r"async_compile\.triton\('(\w+)'", written)
    compile(written, "layer", "exec")
    assert len(re.findall(r"torch\.ops\.torch_attn\._varlen_attn\.default\(", written)) == 1
    assert 4 <= len(set(kernels)) <= 30, kernels
    products = [node for node in graph.graph.nodes if str(node.target) in ("aten.mm.default", "aten.addmm.default")]
    assert len(products) == 7 * 3
    assert {node.meta["val"].dtype for node in products} == {torch.bfloat16}
