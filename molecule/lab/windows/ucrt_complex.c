/* The complex functions of C99 that Wine 8's ucrtbase.dll lacks and numpy 2 needs. Microsoft's types: a float pair is
 * passed in a register, a double pair by reference; long double is double. */
#include <complex.h>
typedef struct { float r, i; } single;
typedef struct { double r, i; } twice;
#define IN(z) __builtin_complex((double)(z).r, (double)(z).i)
#define COMPLEX(name) \
  twice lab_##name(twice z) { double _Complex w = name(IN(z)); return (twice){creal(w), cimag(w)}; } \
  single lab_##name##f(single z) { double _Complex w = name(IN(z)); return (single){creal(w), cimag(w)}; }
#define REAL(name) \
  double lab_##name(twice z) { return name(IN(z)); } \
  float lab_##name##f(single z) { return name(IN(z)); }
COMPLEX(cexp) COMPLEX(clog) COMPLEX(csqrt) COMPLEX(csin) COMPLEX(ccos) COMPLEX(ctan) COMPLEX(csinh) COMPLEX(ccosh) COMPLEX(ctanh)
COMPLEX(casin) COMPLEX(cacos) COMPLEX(catan) COMPLEX(casinh) COMPLEX(cacosh) COMPLEX(catanh) COMPLEX(conj)
REAL(creal) REAL(cimag) REAL(cabs) REAL(carg)
twice lab_cpow(twice x, twice y) { double _Complex w = cpow(IN(x), IN(y)); return (twice){creal(w), cimag(w)}; }
single lab_cpowf(single x, single y) { double _Complex w = cpow(IN(x), IN(y)); return (single){creal(w), cimag(w)}; }
int __stdcall DllMain(void *module, unsigned reason, void *reserved) { return 1; }
/* mingw's own reports errors so; there is nobody to tell */
void __mingw_raise_matherr(int kind, const char *name, double x, double y, double result) {}
