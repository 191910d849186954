// The extension gs_lift._native: one bind_<topic> per file, nothing else here.
#include "module.h"

NB_MODULE(_native, m) {
    m.doc() = "Native kernels of gs_lift; called by rendering, fitting, lifting and clustering.";
    bind_rasterizer(m);
    bind_image_loss(m);
    bind_optimizer(m);
    bind_weights(m);
    bind_clustering(m);
    bind_neighbours(m);
    bind_lifting(m);
    bind_fit_step(m);
    bind_agreement(m);
    bind_evidence(m);
}
