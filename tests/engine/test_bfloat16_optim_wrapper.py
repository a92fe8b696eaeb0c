"""Mixed precision on any device."""

import torch
from mmengine.hooks import Hook

from mmseg_derprop.engine import BFloat16OptimWrapper


class Dtypes(Hook):
    """Notes in which precision the decoder computes, and the losses."""

    def before_train(self, runner):
        self.logits, self.losses = set(), []
        runner.model.student.decode_head.register_forward_hook(lambda *given: self.logits.add(given[2].dtype))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())


def test_a_run(make_runner):
    options = {'optim_wrapper.type': 'BFloat16OptimWrapper', 'optim_wrapper.accumulative_counts': 2}
    runner = make_runner({**options, 'train_cfg.max_iters': 4})
    start = {name: p.detach().clone() for name, p in runner.model.named_parameters()}
    dtypes = Dtypes()
    runner.register_hook(dtypes)
    runner.train()
    assert isinstance(runner.optim_wrapper, BFloat16OptimWrapper)
    assert dtypes.logits == {torch.bfloat16}
    assert all(torch.isfinite(torch.tensor(dtypes.losses)))
    weights = dict(runner.model.named_parameters())
    assert {p.dtype for p in weights.values()} == {torch.float32}
    assert not torch.equal(
        weights['student.backbone.layer1.0.conv1.weight'], start['student.backbone.layer1.0.conv1.weight']
    )


def test_depthwise_convolutions_on_a_cpu_compute_in_float32():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 8, 3, stride=2, groups=8), torch.nn.Conv2d(8, 4, 1)
    )
    x = torch.randn(2, 3, 9, 9)
    wrapper = BFloat16OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    inside = []
    for _ in range(2):
        with wrapper.optim_context(model):
            between = model[0](x)
            between.retain_grad()
            depthwise = model[1](between)
            inside.append(model[2](depthwise))
    assert between.dtype == depthwise.dtype == inside[0].dtype == torch.bfloat16
    exact = torch.nn.functional.conv2d(between.float(), model[1].weight, model[1].bias, stride=2, groups=8)
    torch.testing.assert_close(depthwise, exact.bfloat16())
    torch.testing.assert_close(*inside)
    inside[1].float().square().mean().backward()
    assert between.grad.isfinite().all() and model[1].weight.grad.dtype == torch.float32
    assert model(x).dtype == torch.float32, 'outside of the context nothing changes'
