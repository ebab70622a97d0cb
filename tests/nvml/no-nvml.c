/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A library of the right name that is not NVML.
 * Trust: runs in tests only.
 */
int nvmlInit_v2(void);

int nvmlInit_v2(void)
{
	return 0;
}
