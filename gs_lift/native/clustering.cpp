// Spanning tree to clusters: the native half of HDBSCAN.
#include "module.h"

void bind_clustering(nb::module_ &) {}
