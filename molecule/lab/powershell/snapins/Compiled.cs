// C# that Ansible's modules carry is compiled once, not at every start of powershell.exe: most of a module's processor time under Wine.
// The compiler is the real one; what it made is kept beside the engine, by the source, the options and the references it was made of.
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Management.Automation;
using System.Reflection;
using System.Security.Cryptography;
using System.Text;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;

namespace LabSecurity;

/// What scripts get for a [name]: of the engine's names, which it looks up before those of assemblies
public static class Names
{
    public static void Set(string name, Type type)
    {
        var field = typeof(PSObject).Assembly.GetType("System.Management.Automation.TypeAccelerators").GetField("builtinTypeAccelerators", BindingFlags.NonPublic | BindingFlags.Static);
        if (field?.GetValue(null) is Dictionary<string, Type> known) known[name] = type;
    }
}

/// What a script gets for [Microsoft.CodeAnalysis.CSharp.CSharpCompilation]
public sealed class Compiled
{
    public sealed record Result(bool Success, Diagnostic[] Diagnostics);
    static readonly HashSet<string> loaded = new(); // one name cannot be loaded twice, so a second one is compiled anew
    readonly Func<CSharpCompilation> make;
    readonly string kept;

    public static void Replace() => Names.Set("Microsoft.CodeAnalysis.CSharp.CSharpCompilation", typeof(Compiled));
    Compiled(Func<CSharpCompilation> make, string kept) { this.make = make; this.kept = kept; }
    public static Compiled Create(string name, IEnumerable<SyntaxTree> trees, IEnumerable<MetadataReference> references, CSharpCompilationOptions options)
    {
        var made = new StringBuilder($"{options.OptimizationLevel} {options.AllowUnsafe} {options.GeneralDiagnosticOption} {options.OutputKind}\n");
        foreach (var (id, report) in options.SpecificDiagnosticOptions.OrderBy(x => x.Key, StringComparer.Ordinal)) made.Append($"{id} {report}\n");
        foreach (var reference in references.Select(x => x.Display).Order(StringComparer.Ordinal)) made.Append($"{reference}\n");
        foreach (var tree in trees) made.Append($"{string.Join(' ', tree.Options.PreprocessorSymbolNames)}\n{tree.GetText()}\0");
        var key = Convert.ToHexString(SHA256.HashData(Encoding.UTF8.GetBytes(made.ToString())))[..32];
        var folder = Path.Combine(AppContext.BaseDirectory, "compiled");
        return new Compiled(() => CSharpCompilation.Create(name, trees, references, options), Path.Combine(folder, key));
    }
    public object Emit(Stream code, Stream symbols)
    {
        if (!loaded.Add(kept)) return make().Emit(code, symbols);
        if (File.Exists(kept + ".dll"))
        {
            code.Write(File.ReadAllBytes(kept + ".dll"));
            symbols.Write(File.ReadAllBytes(kept + ".pdb"));
            return new Result(true, Array.Empty<Diagnostic>());
        }
        var result = make().Emit(code, symbols);
        if (result.Success) { Keep(symbols, ".pdb"); Keep(code, ".dll"); }
        return result;
    }
    void Keep(Stream from, string ending)
    {
        var part = $"{kept}.{Guid.NewGuid():N}";
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(kept));
            from.Position = 0;
            using (var to = File.Create(part)) from.CopyTo(to);
            File.Move(part, kept + ending, true);
        }
        catch (IOException) { File.Delete(part); }
    }
}
