"""How a scene is fitted: every number of `gs_lift.fit`."""

from dataclasses import dataclass

from gs_lift.errors import ConfigError


@dataclass(frozen=True)
class FitConfig:
    """Settings of the photometric fit. Learning rates are Adam's: higher than those of 3DGS, as a fit is short."""

    steps: int = 2500
    """Optimisation steps; 0 returns the Gaussians of the starting points."""
    batch: int = 1
    """Photos of a step, 1 to 255, of whose gradients it takes the mean; processes of torchrun share them. Rates grow by
    its square root, Adam remembers as many photos (gsplat's rule). As many photos, so a quarter of the steps (sh_every
    and densify_* too), gave 35.16 dB with 4 instead of 35.34 with 1; at rates unchanged 34.26, at four times 35.64, but
    that rule collapses at 16."""
    sh_degree: int = 3
    """Degree of the spherical harmonics in the end: 0 = one colour from all sides, 3 = as in 3DGS."""
    sh_every: int = 500
    """Steps after which the degree in use rises by one, from 0 to sh_degree."""
    ssim_weight: float = 0.2
    """Share of SSIM in the loss; the rest is L1."""
    background: str = "black"
    """Colour behind the Gaussians while fitting: `black`, `white` or `random` (a new one at every step)."""
    coarse_until: float = 0.3
    """Share of the steps that see the photos at half their size, which costs a third and finds the layout first."""

    initial_opacity: float = 0.3
    """Opacity of the Gaussians at the starting points."""
    means_lr: float = 1.28e-3
    """Learning rate of the centres, times the scene's extent; eight times that of 3DGS, for a twelfth of its steps."""
    means_lr_end: float = 0.01
    """Share of means_lr that is left at the last step; it falls exponentially."""
    lr_end: float = 0.1
    """Share of the other learning rates that is left at the last step; they fall over the last quarter of the steps."""
    sh0_lr: float = 5e-3
    """Learning rate of the colours (spherical harmonics of degree 0)."""
    shN_lr: float = 1.25e-4
    """Learning rate of the spherical harmonics of degree 1 and above."""
    opacities_lr: float = 5e-2
    """Learning rate of the logits of the opacities."""
    scales_lr: float = 2e-2
    """Learning rate of the logarithms of the scales."""
    quats_lr: float = 4e-3
    """Learning rate of the quaternions."""

    sparse_adam: bool = True
    """Leave the Gaussians that a step's view does not show as they are, instead of moving them by Adam's momentum:
    less to do, and .03 dB less on messy_sam_50."""

    strategy: str = "default"
    """How Gaussians come and go: `default` (3DGS: clone, split, prune) or `mcmc` (relocate, add, shake)."""
    max_gaussians: int = 60_000
    """No more Gaussians than this, whatever the strategy wants."""
    densify_from: int = 100
    """First step after which Gaussians may be added or removed."""
    densify_until: float = 0.6
    """Share of the steps after which none is added or removed."""
    densify_every: int = 100
    """Steps from one round of adding and removing to the next."""
    prune_opacity: float = 0.005
    """Gaussians fainter than this are removed (default) or moved elsewhere (mcmc)."""

    grow_grad2d: float = 2e-4
    """default: a Gaussian whose mean gradient in the image (screen = -1..1) is above this is cloned or split."""
    absgrad: bool = False
    """default: sum the gradient's absolute values over the pixels (AbsGS); wants a larger grow_grad2d, such as 8e-4."""
    grow_scale3d: float = 0.01
    """default: above this scale, in scene extents, a Gaussian is split instead of cloned."""
    prune_scale3d: float = 0.1
    """default: above this scale, in scene extents, a Gaussian is removed, once opacities have been reset."""
    revised_opacity: bool = False
    """default: lower the opacity of the halves of a split, so that both together are as opaque as it was."""
    reset_every: int = 0
    """default: steps from one reset of all opacities to 2 prune_opacity to the next; 0 = never."""

    mcmc_noise: float = 5e5
    """mcmc: noise on the centres of faint Gaussians, in units of the centres' learning rate."""
    mcmc_opacity_weight: float = 0.01
    """mcmc: weight of the mean opacity in the loss."""
    mcmc_scale_weight: float = 0.01
    """mcmc: weight of the mean scale, in scene extents, in the loss."""

    evaluate_every: int = 500
    """Steps from one PSNR on the test views (64 of them, where there are more) to the next; 0 = never."""

    def __post_init__(self) -> None:
        """Raises ConfigError for the first value out of its range."""
        at_least = {
            "steps": 0, "sh_every": 1, "densify_every": 1, "max_gaussians": 1, "evaluate_every": 0, "reset_every": 0,
            "densify_from": 0, "grow_grad2d": 0, "grow_scale3d": 0, "prune_scale3d": 0, "mcmc_noise": 0,
            "mcmc_opacity_weight": 0, "mcmc_scale_weight": 0, "means_lr": 0, "sh0_lr": 0, "shN_lr": 0,
            "opacities_lr": 0, "scales_lr": 0, "quats_lr": 0,
        }  # fmt: skip
        for name, least in at_least.items():
            if not getattr(self, name) >= least:
                raise ConfigError(f"fit.{name}: wanted {least} or more, got {getattr(self, name)}")
        if not 1 <= self.batch <= 255:
            raise ConfigError(f"fit.batch: wanted 1 to 255 photos, got {self.batch}")
        for name in ("ssim_weight", "coarse_until", "densify_until", "means_lr_end", "lr_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"fit.{name}: wanted a share in 0..1, got {getattr(self, name)}")
        for name in ("initial_opacity", "prune_opacity"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"fit.{name}: wanted an opacity between 0 and 1, got {getattr(self, name)}")
        for name in ("means_lr_end", "lr_end"):
            if getattr(self, name) == 0:
                raise ConfigError(
                    f"fit.{name}: wanted a share above 0, as the rate falls exponentially; got 0"
                )
        if self.sh_degree not in range(4):
            raise ConfigError(f"fit.sh_degree: wanted 0, 1, 2 or 3, got {self.sh_degree}")
        if self.background not in ("black", "white", "random"):
            raise ConfigError(
                f"fit.background: no background {self.background!r}; one of: black, random, white"
            )
