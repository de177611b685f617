//! Where to compute: the devices that are built in, and work that runs on any of them.
use crate::backend::{Device, Kernels};
use burn::backend::Flex;
use nnq::{Error, ErrorKind, Result};

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// The processor.
    #[default]
    Cpu,
    /// A card of NVIDIA.
    #[cfg(feature = "cuda")]
    Cuda(usize),
    /// Whatever graphics interface there is.
    #[cfg(feature = "wgpu")]
    Wgpu,
    /// The processor, by PyTorch's library. How many threads it takes is said by `OMP_NUM_THREADS`.
    #[cfg(feature = "libtorch")]
    LibTorch,
}

/// Work for a backend that is chosen at run time.
pub(crate) trait Work: Send {
    /// What comes of it.
    type Out: Send;
    /// Does it.
    fn on<B: Kernels>(self, device: Device<B>) -> Result<Self::Out>;
}

impl Place {
    /// The device called so: `cpu`, `cuda`, `cuda:N`, `wgpu` or `libtorch`.
    ///
    /// # Errors
    /// When there is none, or it is not built in.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Self::Cpu),
            #[cfg(feature = "cuda")]
            "cuda" => Ok(Self::Cuda(0)),
            #[cfg(feature = "wgpu")]
            "wgpu" => Ok(Self::Wgpu),
            #[cfg(feature = "libtorch")]
            "libtorch" => Ok(Self::LibTorch),
            _ => {
                #[cfg(feature = "cuda")]
                if let Some(n) = name.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                    return Ok(Self::Cuda(n));
                }
                Err(Error::usage(format!("device '{name}' is not built in"))
                    .cure("use cpu, or build with --features cuda, wgpu or libtorch"))
            }
        }
    }
    /// Does work here, with so many threads of the processor beside it; 0: one per core.
    pub(crate) fn run<W: Work>(self, threads: usize, work: W) -> Result<W::Out> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|e| Error::new(ErrorKind::Io, format!("threads cannot be started: {e}")))?;
        pool.install(|| match self {
            Self::Cpu => work.on::<Flex>(Device::<Flex>::default()),
            #[cfg(feature = "cuda")]
            Self::Cuda(n) => work.on::<burn::backend::Cube>(burn::backend::cuda::CudaDevice::new(n).into()),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => work.on::<burn::backend::Cube>(burn::backend::wgpu::WgpuDevice::default().into()),
            #[cfg(feature = "libtorch")]
            #[allow(deprecated, reason = "as in the module of backends")]
            Self::LibTorch => work.on::<burn::backend::LibTorch>(burn::backend::libtorch::LibTorchDevice::Cpu),
        })
    }
}
