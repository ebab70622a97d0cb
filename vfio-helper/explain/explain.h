/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The judgement as text.
 */
#pragma once

#include "vfio-helper/pci/pci.h"

/*
 * One line per GPU on @out: `ADDRESS VERDICT bind=ADDRESS,... reasons=REASON:ADDRESS,...`. The
 * verdict is `rentable` or the first reason; bind lists what binding it means, whatever the
 * verdict. What is no PCI function is named instead of addressed.
 */
int gpu_explain(const struct pci_tree *tree, const struct gpu_list *list, FILE *out);
