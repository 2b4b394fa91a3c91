/* Lua as a WASI command: runs the script that is named, else standard input.
   wasm-executor invoke lua.wasm --argv lua --stdin SCRIPT
   wasm-executor invoke lua.wasm --argv lua --argv /s.lua --file /s.lua=SCRIPT --stdin DATA */
#include <stdio.h>

#include "lauxlib.h"
#include "lua.h"
#include "lualib.h"

int main(int count, char **arguments) {
    lua_State *lua = luaL_newstate();
    if (lua == NULL) return 70;
    luaL_openlibs(lua);
    lua_newtable(lua); /* arg, as lua.c has it: the script is arg[0] */
    for (int at = 0; at < count; at++) {
        lua_pushstring(lua, arguments[at]);
        lua_rawseti(lua, -2, count > 1 ? at - 1 : at);
    }
    lua_setglobal(lua, "arg");
    if (luaL_loadfile(lua, count > 1 ? arguments[1] : NULL) == LUA_OK &&
        lua_pcall(lua, 0, 0, 0) == LUA_OK)
        return 0;
    fprintf(stderr, "%s\n", luaL_tolstring(lua, -1, NULL));
    return 1;
}

/* WASI has no temporary files. */
FILE *tmpfile(void) { return NULL; }

/* The tag that longjmp throws with: the compiler expects it, this C library lacks it. */
__asm__(".globl __c_longjmp\n.tagtype __c_longjmp i32\n__c_longjmp:\n");
